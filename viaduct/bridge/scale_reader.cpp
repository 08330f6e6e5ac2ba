#include "viaduct/bridge/scale_reader.h"

#include <algorithm>

#include "viaduct/core/scales.h"

namespace viaduct::bridge {

ScaleReader::ScaleReader(const ScaledForm& form, const Scales& place, const Shape& size)
    : form_(form), place_(place), size_(size), steps_(row_major_strides(form.grid(size))), last_(size.rank() - 1) {}

ScaleReader::Run ScaleReader::read(int64_t first, int64_t most, SourceView& source, std::byte* scratch) {
  const int64_t column = first % size_[last_];
  Run run;
  run.count = std::min({most, size_[last_] - column, kMostElements});
  run.skip = column % block();
  int64_t scale = column / block();
  int64_t row = first / size_[last_];
  for (int axis = last_; axis-- > 0;) {
    scale += row % size_[axis] / form_.block[axis] * steps_[axis];
    row /= size_[axis];
  }
  run.scales = load(scale, (column + run.count - 1) / block() - column / block() + 1, source, scratch);
  return run;
}

const float* ScaleReader::load(int64_t first, int64_t count, SourceView& source, std::byte* scratch) {
  if (first >= first_loaded_ && first + count <= first_loaded_ + num_loaded_)
    return loaded_.data() + (first - first_loaded_);
  const int64_t unit = element_size(form_.scale_dtype);
  const std::byte* bytes = source.at(place_.file, place_.byte_offset + static_cast<uint64_t>(first * unit),
                                     static_cast<size_t>(count * unit), scratch);
  decode_scales(form_.scale_dtype, bytes, loaded_.data(), count, form_.round_scale);
  first_loaded_ = first;
  num_loaded_ = count;
  return loaded_.data();
}

}  // namespace viaduct::bridge
