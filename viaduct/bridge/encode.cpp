#include "viaduct/bridge/encode.h"

#include <algorithm>
#include <cstring>

#include "viaduct/bridge/move.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/quantize.h"

namespace viaduct::bridge {

ElementEncoder::ElementEncoder(const TransferPlan& plan, const TargetChunk& chunk)
    : plan_(plan), chunk_(chunk), encoder_(plan.encoders[chunk.encoder]) {
  if (encoder_.scales == kNoScales) return;
  const Scales& scales = plan.scales[encoder_.scales];
  scales_.emplace(plan.forms[scales.form], scales, chunk.size);
}

void ElementEncoder::encode(int64_t first, int64_t count, const std::byte* values, SourceView& source,
                            CopyScratch& scratch, std::byte* out) {
  if (scales_) {
    encode_codes(first, count, values, source, scratch, out);
  } else {
    keep_originals(first, count, values, source, scratch, out);
  }
}

void ElementEncoder::encode_codes(int64_t first, int64_t count, const std::byte* values, SourceView& source,
                                  CopyScratch& scratch, std::byte* out) {
  const Codes codes = plan_.forms[plan_.scales[encoder_.scales].form].codes;
  while (count > 0) {
    const ScaleReader::Run run = scales_->read(first, count, source, scratch.lines());
    quantize(codes, values, run.scales, run.skip, scales_->block(), out, first, run.count);
    values += run.count * element_size(kScaledDType);
    first += run.count;
    count -= run.count;
  }
}

// The original where it still stands for the number, else the number as it is written.
void ElementEncoder::keep_originals(int64_t first, int64_t count, const std::byte* values, SourceView& source,
                                    CopyScratch& scratch, std::byte* out) {
  const SourceChunk& original = plan_.sources[static_cast<size_t>(encoder_.original)];
  const int64_t size = element_size(chunk_.dtype), value_size = element_size(encoder_.value_dtype);
  std::byte* const to = out + first * size;
  convert_and_add(encoder_.value_dtype, values, chunk_.dtype, to, count, chunk_.add);
  const std::byte* kept = source.at(original.file, original.byte_offset + static_cast<uint64_t>(first * size),
                                    static_cast<size_t>(count * size), scratch.lines());
  std::byte* const imported = scratch.converted();
  convert_and_add(chunk_.dtype, kept, encoder_.value_dtype, imported, count, encoder_.import_add);
  for (int64_t i = 0; i < count; ++i)
    if (std::memcmp(imported + i * value_size, values + i * value_size, static_cast<size_t>(value_size)) == 0)
      std::memcpy(to + i * size, kept + i * size, static_cast<size_t>(size));
}

EncoderRange encoder_range(const TransferPlan& plan, const TargetChunk& chunk, int64_t first, int64_t end) {
  const Encoder& encoder = plan.encoders[chunk.encoder];
  if (encoder.scales != kNoScales) {
    const Scales& scales = plan.scales[encoder.scales];
    const auto [from, to] = scale_range(plan.forms[scales.form], scales, chunk.size, first, end);
    return {scales.file, from, to};
  }
  const SourceChunk& original = plan.sources[static_cast<size_t>(encoder.original)];
  const auto size = static_cast<uint64_t>(element_size(chunk.dtype));
  return {original.file, original.byte_offset + static_cast<uint64_t>(first) * size,
          original.byte_offset + static_cast<uint64_t>(end) * size};
}

std::pair<uint64_t, uint64_t> number_bytes(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin,
                                           uint64_t end) {
  if (chunk.encoder == kNoEncoder) return {begin, end};
  const auto [first, last] = elements_of(chunk, begin, end);
  const auto size = static_cast<uint64_t>(element_size(plan.encoders[chunk.encoder].value_dtype));
  return {static_cast<uint64_t>(first) * size, static_cast<uint64_t>(last) * size};
}

void encode_bytes(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin, uint64_t end,
                  const std::vector<Move>& moves, SourceView& source, CopyScratch& scratch, std::byte* out) {
  constexpr int64_t kTogether = ElementEncoder::kMostElements;
  ElementEncoder encoder(plan, chunk);
  const int64_t size = element_size(plan.encoders[chunk.encoder].value_dtype);
  std::vector<std::byte> numbers(static_cast<size_t>(kTogether * size));
  const auto [first, last] = elements_of(chunk, begin, end);
  for (int64_t from = first; from < last; from += kTogether) {
    const int64_t to = std::min(from + kTogether, last);
    uint64_t made = 0;
    for (const Move& move : moves)
      clip(move, from * size, to * size,
           [&](const Move& part) { made += copy_move(part, source, scratch, numbers.data() - from * size); });
    VIADUCT_CHECK_EQ(made, static_cast<uint64_t>((to - from) * size), "numbers from element {} of a chunk", from);
    encoder.encode(from, to - from, numbers.data(), source, scratch, out);
  }
}

std::pair<int64_t, int64_t> elements_of(const TargetChunk& chunk, uint64_t begin, uint64_t end) {
  const DTypeInfo& format = info(chunk.dtype);
  const auto elements = [&](uint64_t bytes) {
    return static_cast<int64_t>(bytes) / format.block_bytes * format.block_elements;
  };
  return {elements(begin), elements(end)};
}

}  // namespace viaduct::bridge
