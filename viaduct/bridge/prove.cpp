// The proof of a plan: nothing is left out, nothing is written twice, everything that is read is there.
#include <algorithm>
#include <filesystem>

#include "viaduct/bridge/transfer.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/scales.h"

namespace viaduct::bridge {

namespace {

constexpr size_t kMaxProblems = 20;

class Prover {
 public:
  Prover(const TransferPlan& plan, const std::vector<uint64_t>& sizes) : plan_(plan), sizes_(sizes) {}

  Proof run() {
    if (!check_indices()) return std::move(proof_);
    check_sources();
    check_chunks();
    check_files();
    proof_.target_bytes = plan_.bytes_to_write();
    return std::move(proof_);
  }

 private:
  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    if (proof_.problems.size() < kMaxProblems)
      proof_.problems.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  static bool is_whole(const layout::Box& box, const Shape& shape) {
    if (box.size != shape) return false;
    for (int axis = 0; axis < shape.rank(); ++axis)
      if (box.offset[axis] != 0 || box.stride[axis] != 1) return false;
    return true;
  }
  const std::string& name_of(const TargetChunk& chunk) const { return plan_.target.tensors[chunk.tensor].name; }

  // Everything that is named by number is there; the other checks rely on it.
  bool check_indices() {
    for (const SourceChunk& chunk : plan_.sources)
      if (chunk.is_scaled() && chunk.scales >= plan_.scales.size())
        problem("a source chunk with scales {} of {}", chunk.scales, plan_.scales.size());
    for (const TargetChunk& chunk : plan_.targets)
      if (chunk.encoder != kNoEncoder && chunk.encoder >= plan_.encoders.size())
        problem("a target chunk with encoder {} of {}", chunk.encoder, plan_.encoders.size());
    for (const Encoder& encoder : plan_.encoders) {
      if (encoder.scales != kNoScales && encoder.scales >= plan_.scales.size())
        problem("an encoder with scales {} of {}", encoder.scales, plan_.scales.size());
      if (encoder.original != layout::kNoTensor && static_cast<size_t>(encoder.original) >= plan_.sources.size())
        problem("an encoder with source chunk {} of {}", encoder.original, plan_.sources.size());
    }
    for (const Scales& scales : plan_.scales)
      if (scales.form >= plan_.forms.size()) problem("scales of form {} of {}", scales.form, plan_.forms.size());
    for (const Transfer& transfer : plan_.transfers) {
      if (transfer.source != layout::kNoTensor && static_cast<size_t>(transfer.source) >= plan_.sources.size())
        problem("a transfer from source chunk {} of {}", transfer.source, plan_.sources.size());
      if (transfer.region >= plan_.regions.size())
        problem("a transfer of region {} of {}", transfer.region, plan_.regions.size());
    }
    for (const TargetChunk& chunk : plan_.targets) {
      if (chunk.file >= plan_.target.files.size())
        problem("a target chunk in file {} of {}", chunk.file, plan_.target.files.size());
      if (chunk.tensor >= plan_.target.tensors.size())
        problem("a target chunk of tensor {} of {}", chunk.tensor, plan_.target.tensors.size());
      if (uint64_t{chunk.first_transfer} + chunk.num_transfers > plan_.transfers.size())
        problem("a target chunk of transfers {} to {} of {}", chunk.first_transfer,
                uint64_t{chunk.first_transfer} + chunk.num_transfers, plan_.transfers.size());
    }
    return proof_.problems.empty();
  }

  // Every source chunk lies inside its file.
  void check_sources() {
    for (const SourceChunk& chunk : plan_.sources) {
      if (chunk.file >= sizes_.size()) {
        problem("a source chunk in file {} of {}", chunk.file, sizes_.size());
        continue;
      }
      int64_t last = 0;
      bool empty = false;
      const Shape strides = chunk.strides.empty() ? row_major_strides(chunk.size) : chunk.strides;
      for (int axis = 0; axis < chunk.size.rank(); ++axis) {
        empty |= chunk.size[axis] == 0;
        last += (chunk.size[axis] - 1) * strides[axis];
      }
      if (empty) continue;
      const DTypeInfo& i = info(chunk.dtype);
      const auto bytes =
          static_cast<uint64_t>((last + i.block_elements) / i.block_elements * int64_t{i.block_bytes});
      if (chunk.byte_offset + bytes > sizes_[chunk.file])
        problem("{}: {} {} at byte {} reaches to byte {}, the file ends at {}",
                plan_.source_files[chunk.file].string(), chunk.dtype, chunk.size, chunk.byte_offset,
                chunk.byte_offset + bytes, sizes_[chunk.file]);
      if (chunk.is_scaled()) check_scales(chunk);
    }
  }

  void check_scales(const SourceChunk& chunk) {
    const auto place = [&] {
      return fmt::format("{}: {} at byte {}", plan_.source_files[chunk.file].string(), chunk.size,
                         chunk.byte_offset);
    };
    if (!chunk.strides.empty()) return problem("{}: a strided view of codes", place());
    check_scales(plan_.scales[chunk.scales], chunk.dtype, chunk.size, place);
  }

  // The scales of a tensor of codes, which are packed as `dtype` is, fit it and lie inside their file.
  template <class Place>
  void check_scales(const Scales& scales, DType dtype, const Shape& size, Place&& place) {
    const ScaledForm& form = plan_.forms[scales.form];
    const bool nibbles = form.codes == Codes::kE2M1 || form.codes == Codes::kInt4;
    if ((nibbles ? 2 : 1) != info(dtype).block_elements || info(dtype).block_bytes != 1)
      return problem("{}: {} does not hold codes as its scales need them", place(), dtype);
    if (!is_scale_dtype(form.scale_dtype) || (form.scale_dtype == DType::kU8) != (form.codes == Codes::kE2M1))
      return problem("{}: scales of {}", place(), form.scale_dtype);
    if (form.block.rank() != size.rank() || form.block.rank() == 0 ||
        std::any_of(form.block.begin(), form.block.end(), [](int64_t each) { return each < 1; }))
      return problem("{}: blocks of {} elements", place(), form.block);
    if (scales.file >= sizes_.size())
      return problem("{}: scales in file {} of {}", place(), scales.file, sizes_.size());
    const auto bytes = static_cast<uint64_t>(num_bytes(form.scale_dtype, num_elements(form.grid(size))));
    if (scales.byte_offset + bytes > sizes_[scales.file])
      problem("{}: its scales {} at byte {} of {} reach to byte {}, the file ends at {}", place(), form.grid(size),
              scales.byte_offset, plan_.source_files[scales.file].string(), scales.byte_offset + bytes,
              sizes_[scales.file]);
  }

  // What an encoder reads besides the numbers is there, and the bytes can be made.
  void check_encoder(const TargetChunk& chunk) {
    const Encoder& encoder = plan_.encoders[chunk.encoder];
    const auto place = [&] { return name_of(chunk); };
    if ((encoder.scales == kNoScales) == (encoder.original == layout::kNoTensor))
      return problem("{}: an encoder must have either scales or an original", place());
    if (encoder.scales != kNoScales) {
      if (encoder.value_dtype != kScaledDType || chunk.add != 0)
        problem("{}: codes of {} plus {}", place(), encoder.value_dtype, chunk.add);
      return check_scales(plan_.scales[encoder.scales], chunk.dtype, chunk.size, place);
    }
    const SourceChunk& original = plan_.sources[static_cast<size_t>(encoder.original)];
    if (original.dtype != chunk.dtype || original.size != chunk.size || !original.strides.empty() ||
        original.is_scaled())
      problem("{}: {} {} with an original {} {}", place(), chunk.dtype, chunk.size, original.dtype, original.size);
    if (!can_add(chunk.dtype, encoder.value_dtype) || !can_add(encoder.value_dtype, chunk.dtype))
      problem("{}: {} cannot be compared with {}", place(), chunk.dtype, encoder.value_dtype);
  }

  // Every element of every target chunk comes from exactly one transfer.
  void check_chunks() {
    layout::Pieces pieces;
    for (const TargetChunk& chunk : plan_.targets) {
      const int64_t wanted = num_elements(chunk.size);
      if (chunk.encoder != kNoEncoder) check_encoder(chunk);
      for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
        const Transfer& transfer = plan_.transfers[chunk.first_transfer + t];
        check_transfer(transfer, plan_.numbers_of(chunk));
      }
      // The usual chunk is one whole box.
      if (chunk.num_transfers == 1 &&
          is_whole(plan_.region_of(plan_.transfers[chunk.first_transfer]).to, chunk.size))
        continue;
      if (wanted == 0 && chunk.num_transfers == 0) continue;
      pieces.clear();
      for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
        const Transfer& transfer = plan_.transfers[chunk.first_transfer + t];
        const Region& region = plan_.region_of(transfer);
        pieces.push_back({transfer.source, 0, region.from, region.to, region.axes});
      }
      const layout::Coverage coverage = layout::check_targets(pieces, {chunk.size});
      if (!coverage.exact())
        problem("{}: {} elements of the chunk at byte {} come from nowhere and {} from two places ({}{})",
                name_of(chunk), coverage.holes, chunk.byte_offset, coverage.doubles, coverage.first_hole,
                coverage.first_double);
    }
  }

  void check_transfer(const Transfer& transfer, const TargetChunk& chunk) {
    if (transfer.source == layout::kNoTensor) return;
    const Region& region = plan_.region_of(transfer);
    const SourceChunk& source = plan_.sources[static_cast<size_t>(transfer.source)];
    proof_.source_bytes += static_cast<uint64_t>(num_elements(region.to.size)) *
                           static_cast<uint64_t>(info(source.dtype).block_bytes) /
                           static_cast<uint64_t>(info(source.dtype).block_elements);
    const DType value = source.value_dtype();
    if (value != chunk.dtype && !can_convert(value, chunk.dtype))
      problem("{}: {} cannot be converted to {}", name_of(chunk), value, chunk.dtype);
    const float add = chunk.add + source.add;
    if (add != 0 && !can_add(value, chunk.dtype))
      problem("{}: {} is to be added to {} to make {}", name_of(chunk), add, value, chunk.dtype);
    for (int axis = 0; axis < region.from.rank(); ++axis) {
      const int64_t last = region.from.offset[axis] + (region.from.size[axis] - 1) * region.from.stride[axis];
      if (region.from.offset[axis] < 0 || last >= source.size[axis])
        problem("{}: reads index {} of axis {} of a source chunk of {}", name_of(chunk), last, axis, source.size);
    }
    for (int axis = 0; axis < region.to.rank(); ++axis) {
      const int from = region.axes[axis];
      const int64_t size = from >= 0 ? region.from.size[from] : 1;
      if (region.to.size[axis] != size)
        problem("{}: a transfer of {} elements into {} along axis {}", name_of(chunk), size, region.to.size[axis],
                axis);
    }
  }

  // Literals and chunks fill every target file, each byte once; torch_dist may have gaps between entries.
  void check_files() {
    struct Range {
      uint64_t begin, end;
    };
    std::vector<std::vector<Range>> ranges(plan_.target.files.size());
    for (const formats::Literal& literal : plan_.target.literals)
      ranges.at(literal.file).push_back({literal.offset, literal.offset + literal.bytes.size()});
    for (const TargetChunk& chunk : plan_.targets)
      ranges.at(chunk.file).push_back({chunk.byte_offset, chunk.byte_offset + chunk.num_bytes()});
    for (size_t f = 0; f < ranges.size(); ++f) {
      const formats::TargetFile& file = plan_.target.files[f];
      std::sort(ranges[f].begin(), ranges[f].end(), [](const Range& a, const Range& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
      });
      uint64_t end = 0;
      for (const Range& range : ranges[f]) {
        if (range.begin == range.end) continue;
        if (range.begin < end) problem("{}: bytes from {} are written twice", file.name, range.begin);
        if (range.begin > end && !plan_.target.gaps_are_zero)
          problem("{}: bytes {} to {} are not written", file.name, end, range.begin);
        end = std::max(end, range.end);
      }
      if (end > file.size || (end < file.size && !plan_.target.gaps_are_zero))
        problem("{}: bytes up to {} are written, the file has {}", file.name, end, file.size);
    }
  }

  const TransferPlan& plan_;
  const std::vector<uint64_t>& sizes_;
  Proof proof_;
};

}  // namespace

std::vector<uint64_t> source_sizes(const TransferPlan& plan) {
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < plan.source_files.size(); ++i) {
    const Path& file = plan.source_files[i];
    if (plan.measured_file == i) {
      sizes.push_back(plan.measured_size);
      continue;
    }
    std::error_code error;
    sizes.push_back(std::filesystem::file_size(file, error));
    if (error) throw_system(fmt::format("cannot read the size of {}", file.string()), error.value());
  }
  return sizes;
}

Proof prove(const TransferPlan& plan, const std::vector<uint64_t>& source_sizes) {
  return Prover(plan, source_sizes).run();
}

}  // namespace viaduct::bridge
