#include "viaduct/bridge/transfer.h"

#include <bit>

#include "viaduct/core/hash.h"

namespace viaduct::bridge {

Shape ScaledForm::grid(const Shape& size) const {
  Shape grid = size;
  for (int axis = 0; axis < size.rank(); ++axis)
    grid[axis] = size[axis] == 0 ? 0 : (size[axis] - 1) / block[axis] + 1;
  return grid;
}

uint64_t TransferPlan::bytes_to_write(const std::vector<bool>& files) const {
  uint64_t bytes = 0;
  for (size_t i = 0; i < target.files.size(); ++i)
    if (files.empty() || files.at(i)) bytes += target.files[i].size;
  return bytes;
}

uint64_t TransferPlan::bytes_of_data(const std::vector<bool>& files) const {
  uint64_t bytes = 0;
  for (const TargetChunk& chunk : targets)
    if (files.empty() || files.at(chunk.file)) bytes += chunk.num_bytes();
  return bytes;
}

namespace {

// Numbers and texts one after the other, hashed in runs.
class Digest {
 public:
  void add(uint64_t value) {
    words_.push_back(value);
    if (words_.size() == 4096) fold();
  }
  void add(std::string_view text) {
    add(text.size());
    add(xxh3_64(text));
  }
  void add(const Shape& shape) {
    add(static_cast<uint64_t>(shape.rank()));
    for (int64_t value : shape) add(static_cast<uint64_t>(value));
  }
  void add(const layout::Box& box) {
    add(box.offset);
    add(box.size);
    add(box.stride);
  }
  uint64_t value() {
    fold();
    return value_;
  }

 private:
  void fold() {
    words_.push_back(value_);
    value_ = xxh3_64(std::as_bytes(std::span(words_)));
    words_.clear();
  }
  std::vector<uint64_t> words_;
  uint64_t value_ = 0;
};

}  // namespace

uint64_t TransferPlan::hash() const {
  Digest digest;
  if (change) digest.add(change);
  for (const Path& file : source_files) digest.add(file.filename().string());
  for (const SourceChunk& chunk : sources) {
    digest.add(chunk.file);
    digest.add(chunk.byte_offset);
    digest.add(static_cast<uint64_t>(chunk.dtype));
    digest.add(chunk.size);
    digest.add(chunk.strides);
    digest.add(uint64_t{std::bit_cast<uint32_t>(chunk.add)} << 32 | chunk.scales);
  }
  for (const Scales& each : scales) {
    digest.add(each.file);
    digest.add(each.form);
    digest.add(each.byte_offset);
  }
  for (const ScaledForm& form : forms) {
    digest.add(static_cast<uint64_t>(form.codes));
    digest.add(static_cast<uint64_t>(form.scale_dtype));
    digest.add(uint64_t{form.round_scale});
    digest.add(form.block);
  }
  for (const Encoder& encoder : encoders) {
    digest.add(static_cast<uint64_t>(encoder.value_dtype));
    digest.add(uint64_t{encoder.scales});
    digest.add(static_cast<uint64_t>(encoder.original));
    digest.add(uint64_t{std::bit_cast<uint32_t>(encoder.import_add)});
  }
  for (const formats::TargetFile& file : target.files) {
    digest.add(file.name);
    digest.add(file.size);
  }
  for (const formats::Literal& literal : target.literals) {
    digest.add(literal.file);
    digest.add(literal.offset);
    digest.add(literal.bytes.view());
  }
  for (const TargetChunk& chunk : targets) {
    digest.add(chunk.file);
    digest.add(chunk.byte_offset);
    digest.add(static_cast<uint64_t>(chunk.dtype));
    digest.add(chunk.size);
    digest.add(chunk.first_transfer);
    digest.add(chunk.num_transfers);
    digest.add(uint64_t{std::bit_cast<uint32_t>(chunk.add)} << 32 | chunk.encoder);
  }
  for (const Transfer& transfer : transfers) {
    digest.add(static_cast<uint64_t>(transfer.source));
    digest.add(transfer.region);
  }
  for (const Region& region : regions) {
    digest.add(region.from);
    digest.add(region.to);
    for (int axis = 0; axis < region.to.rank(); ++axis) digest.add(static_cast<uint64_t>(region.axes[axis]));
  }
  return digest.value();
}

}  // namespace viaduct::bridge
