#include "viaduct/bridge/measure_scales.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "viaduct/bridge/open_files.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/quantize.h"
#include "viaduct/core/scales.h"

namespace viaduct::bridge {

namespace {

constexpr int64_t kValueBytes = 2;  // of kScaledDType

// One row of a tensor's grid of scales while its numbers come.
struct GridRow {
  std::vector<float> largest;
  std::vector<uint8_t> keeps;   // the original scale has given every number back so far
  std::vector<float> original;  // empty: there is none
  std::vector<std::byte> original_bytes;
  int64_t elements = 0;  // seen so far
};

class Measure {
 public:
  Measure(const StoredTensors& source, const std::vector<ScaledTarget>& targets,
          const std::vector<ScaledForm>& forms, const Path& file)
      : source_(source),
        targets_(targets),
        forms_(forms),
        originals_(source.files, File::Mode::kRead),
        file_(File::open(file, File::Mode::kWrite)) {}

  // Numbers of a target from byte `offset` on, in row-major order. Called from several threads.
  void add(uint32_t target, uint64_t offset, std::span<const std::byte> bytes) {
    const ScaledTarget& tensor = targets_[target];
    const ScaledForm& form = forms_[tensor.form];
    const Shape grid = form.grid(tensor.shape);
    const int last = tensor.shape.rank() - 1;
    const int64_t columns = tensor.shape[last], block = form.block[last];
    std::map<int64_t, GridRow> rows;
    int64_t element = static_cast<int64_t>(offset) / kValueBytes;
    const std::byte* values = bytes.data();
    for (auto left = static_cast<int64_t>(bytes.size()) / kValueBytes; left > 0;) {
      const int64_t column = element % columns, run = std::min(left, columns - column);
      const int64_t number = grid_row(element / columns, tensor.shape, form, grid);
      const auto [it, fresh] = rows.try_emplace(number);
      if (fresh) it->second = new_row(tensor, form, number, grid[last]);
      GridRow& row = it->second;
      for (int64_t done = 0; done < run;) {
        const int64_t at = column + done, count = std::min(run - done, block - at % block);
        const auto scale = static_cast<size_t>(at / block);
        const std::byte* from = values + done * kValueBytes;
        row.largest[scale] = std::max(row.largest[scale], largest_magnitude(from, count));
        if (row.keeps[scale] && !reproduces(form.codes, from, row.original[scale], count)) row.keeps[scale] = 0;
        done += count;
      }
      row.elements += run;
      element += run;
      values += run * kValueBytes;
      left -= run;
    }
    for (auto& [number, row] : rows) merge(target, number, std::move(row));
  }

  void finish() {
    VIADUCT_CHECK(open_.empty(), "{} rows of scales were not completed", open_.size());
    file_.sync();
  }

 private:
  static int64_t grid_row(int64_t row, const Shape& shape, const ScaledForm& form, const Shape& grid) {
    int64_t result = 0, step = 1;
    for (int axis = shape.rank() - 1; axis-- > 0;) {
      result += row % shape[axis] / form.block[axis] * step;
      step *= grid[axis];
      row /= shape[axis];
    }
    return result;
  }
  // How many elements share the scales of a row of the grid.
  static int64_t elements_of_row(int64_t number, const ScaledTarget& tensor, const ScaledForm& form,
                                 const Shape& grid) {
    int64_t count = tensor.shape[tensor.shape.rank() - 1];
    for (int axis = tensor.shape.rank() - 1; axis-- > 0;) {
      const int64_t begin = number % grid[axis] * form.block[axis];
      count *= std::min(form.block[axis], tensor.shape[axis] - begin);
      number /= grid[axis];
    }
    return count;
  }

  GridRow new_row(const ScaledTarget& tensor, const ScaledForm& form, int64_t number, int64_t scales) {
    GridRow row;
    const auto count = static_cast<size_t>(scales);
    row.largest.resize(count);
    row.keeps.resize(count, tensor.original.has_value());
    if (!tensor.original) return row;
    row.original.resize(count);
    const int64_t unit = element_size(form.scale_dtype);
    row.original_bytes.resize(count * static_cast<size_t>(unit));
    const uint64_t offset = tensor.original->byte_offset + static_cast<uint64_t>(number * scales * unit);
    if (source_.store) {
      read_bytes(source_, tensor.original->file, offset, row.original_bytes);
    } else {
      originals_.get(tensor.original->file)->read(offset, row.original_bytes);
    }
    decode_scales(form.scale_dtype, row.original_bytes.data(), row.original.data(), scales, form.round_scale);
    return row;
  }

  void merge(uint32_t target, int64_t number, GridRow row) {
    const ScaledTarget& tensor = targets_[target];
    const ScaledForm& form = forms_[tensor.form];
    const int64_t wanted = elements_of_row(number, tensor, form, form.grid(tensor.shape));
    if (row.elements < wanted) {
      const std::lock_guard lock(mutex_);
      const auto [it, fresh] = open_.try_emplace({target, number}, std::move(row));
      if (fresh) return;
      GridRow& known = it->second;
      for (size_t i = 0; i < known.largest.size(); ++i) {
        known.largest[i] = std::max(known.largest[i], row.largest[i]);
        known.keeps[i] &= row.keeps[i];
      }
      known.elements += row.elements;
      if (known.elements < wanted) return;
      row = std::move(known);
      open_.erase(it);
    }
    write(tensor, form, number, row);
  }

  void write(const ScaledTarget& tensor, const ScaledForm& form, int64_t number, const GridRow& row) {
    const auto unit = static_cast<size_t>(element_size(form.scale_dtype));
    std::vector<std::byte> bytes(row.largest.size() * unit);
    for (size_t i = 0; i < row.largest.size(); ++i) {
      if (row.keeps[i]) {
        std::copy_n(row.original_bytes.data() + i * unit, unit, bytes.data() + i * unit);
        continue;
      }
      VIADUCT_USER_CHECK(
          std::isfinite(row.largest[i]),
          "{} holds a NaN or an infinite number, which cannot be quantised; export without --quantize",
          tensor.name);
      scale_for(row.largest[i], form.codes, form.scale_dtype, bytes.data() + i * unit);
    }
    file_.write(tensor.offset + static_cast<uint64_t>(number) * bytes.size(), bytes);
  }

  const StoredTensors& source_;
  const std::vector<ScaledTarget>& targets_;
  const std::vector<ScaledForm>& forms_;
  OpenFiles originals_;
  File file_;
  std::mutex mutex_;  // guards what is below
  std::map<std::pair<uint32_t, int64_t>, GridRow> open_;
};

}  // namespace

uint64_t place_scales(std::vector<ScaledTarget>& targets, const std::vector<ScaledForm>& forms) {
  uint64_t size = 0;
  for (ScaledTarget& target : targets) {
    const ScaledForm& form = forms[target.form];
    target.offset = size;
    size += static_cast<uint64_t>(num_bytes(form.scale_dtype, num_elements(form.grid(target.shape))));
    size = (size + 7) / 8 * 8;
  }
  return size;
}

void measure_scales(const Checkpoint& source, const WeightGraph* graph, const std::vector<ScaledTarget>& targets,
                    const std::vector<ScaledForm>& forms, const Path& file, const ExecuteOptions& options) {
  // Some at a time: the plan of all would take as much memory as the conversion's own.
  constexpr size_t kTogether = 4096;
  Measure measure(source.stored(), targets, forms, file);
  uint64_t bytes = 0;
  for (const ScaledTarget& target : targets)
    bytes += static_cast<uint64_t>(num_elements(target.shape) * kValueBytes);
  if (options.progress) options.progress->begin("measuring", bytes);
  ExecuteOptions reading = options;
  reading.crc = false;
  reading.journal = nullptr;
  for (size_t first = 0; first < targets.size(); first += kTogether) {
    const size_t end = std::min(first + kTogether, targets.size());
    PlanBuilder builder(source.stored());
    for (size_t i = first; i < end; ++i) {
      const auto id = static_cast<size_t>(targets[i].hf_tensor);
      builder.add(Shape::filled(targets[i].shape.rank(), 0), targets[i].shape, kScaledDType,
                  graph ? source.hf_pieces_in(*graph, id) : source.hf_pieces(id), static_cast<uint32_t>(i - first),
                  0);
    }
    const TransferPlan plan = builder.finish_virtual();
    const auto from = open_source(plan);
    const auto sink = callback_sink([&](uint32_t target, uint64_t offset, std::span<const std::byte> numbers) {
      measure.add(static_cast<uint32_t>(first + target), offset, numbers);
    });
    execute(plan, *from, *sink, reading);
  }
  if (options.progress) options.progress->end();
  measure.finish();
}

}  // namespace viaduct::bridge
