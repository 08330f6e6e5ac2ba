#include "viaduct/adapters/merge.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::adapters {

using bridge::Conversion;
using bridge::TargetChunk;
using layout::Box;
using layout::Piece;
using layout::Pieces;

namespace {

// A run of lines of a target chunk: line i begins at element first + i * step and is `cols` elements long.
struct Lines {
  uint32_t update = 0;      // of the adapter
  bool transposed = false;  // lines run along the weight's rows: its inputs are the lines
  int64_t first = 0, step = 0;
  int64_t rows = 0, cols = 0;
  int64_t from_row = 0, row_step = 1;  // row of the left factor that line 0 is, and of each further one
  int64_t from_col = 0;                // column of the right factor that the lines begin at
};

// The factors of an update, ready for lines of one direction.
struct Factors {
  std::vector<float> left;  // [rows, rank]
  PackedFactor right;       // [rank, cols]
  std::vector<float> magnitude;
  int64_t rank = 0;
  float scale = 1;
  size_t bytes() const { return left.size() * sizeof(float) + right.bytes(); }
};

class Merge : public bridge::BlockChange {
 public:
  Merge(const Conversion& conversion, const bridge::Checkpoint& base, const Adapter& adapter, Rounding rounding)
      : adapter_(adapter), rounding_(rounding), dora_(adapter.spec().kind == AdapterKind::kDora) {
    find_lines(conversion, base);
  }

  size_t tensors() const { return tensors_; }
  uint64_t hash() const;
  void prepare(const bridge::TransferPlan& plan, const std::vector<Path>& sources,
               const bridge::ExecuteOptions& options) override;
  bool changes(uint32_t chunk) const override { return lines_of_.contains(chunk); }
  void apply(uint32_t chunk, uint64_t first_byte, std::span<std::byte> bytes) override;

 private:
  using Shared = std::shared_ptr<const Factors>;
  static constexpr size_t kCacheBytes = 48u << 20;

  // Sums of squares of a row, or of parts of it, by the first column of the part.
  using Norms = std::vector<std::map<int64_t, double>>;

  void find_lines(const Conversion& conversion, const bridge::Checkpoint& base);
  void add_piece(uint32_t chunk, const TargetChunk& target, const Shape& offset, const Piece& piece,
                 const AdapterUpdate& update, uint32_t number);
  Shared factors(uint32_t update, bool transposed);
  void change_lines(const Lines& lines, DType dtype, int64_t begin, int64_t end, std::byte* data);

  const Adapter& adapter_;
  Rounding rounding_;
  bool dora_, measuring_ = false;
  std::unordered_map<uint32_t, std::vector<Lines>> lines_of_;  // [target chunk]
  std::unordered_map<uint32_t, DType> dtypes_;
  size_t tensors_ = 0;
  std::vector<int64_t> covered_;                 // [update]: elements that lines change
  std::vector<Norms> norms_;                     // [update], while they are measured
  std::vector<std::vector<float>> row_factors_;  // [update]: of DoRA
  std::mutex mutex_;
  std::list<std::pair<uint64_t, Shared>> cache_;  // the last used first
};

// Where the chunk begins in its parameter, or in its Hugging Face tensor.
Shape chunk_offset(const Conversion& conversion, uint32_t chunk, const bridge::WeightGraph& graph) {
  const TargetChunk& target = conversion.plan.targets[chunk];
  const formats::StoredTensor& stored = conversion.plan.target.tensors[target.tensor];
  const Shape& offset = stored.chunks[target.chunk].offset;
  if (conversion.world == bridge::World::kHuggingFace) return Shape::filled(target.size.rank(), 0);
  const auto parameter = static_cast<size_t>(conversion.made_of[chunk]);
  const models::ArchSpec& arch = graph.arch;
  for (const models::StateKey& key :
       models::state_keys(graph.parameters[parameter], arch, models::layer_keys_for(arch))) {
    if (key.key != stored.name) continue;
    Shape result(std::span(offset.begin() + key.prefix.rank(), offset.end()));
    result[0] += key.begin;
    return result;
  }
  throw InternalError(fmt::format("{} is no key of {}", stored.name, graph.parameters[parameter].name));
}

void Merge::find_lines(const Conversion& conversion, const bridge::Checkpoint& base) {
  const bridge::WeightGraph& names = adapter_.base();
  const bridge::WeightGraph& target = conversion.target_graph ? *conversion.target_graph : base.graph();
  covered_.assign(adapter_.updates().size(), 0);
  std::unordered_map<int32_t, std::vector<uint32_t>> updates_of;  // [weight of `names`]
  std::set<int32_t> parameters;
  for (size_t u = 0; u < adapter_.updates().size(); ++u) {
    const AdapterUpdate& update = adapter_.updates()[u];
    updates_of[update.weight].push_back(static_cast<uint32_t>(u));
    for (const int32_t p : names.parameters_of(static_cast<size_t>(update.weight))) parameters.insert(p);
  }
  const bool megatron = conversion.world == bridge::World::kMegatron;
  for (uint32_t chunk = 0; chunk < conversion.plan.targets.size(); ++chunk) {
    const int32_t made = conversion.made_of[chunk];
    if (made < 0) continue;
    // What the target tensor is made of, in the adapter's names.
    Pieces pieces;
    if (megatron) {
      if (!parameters.contains(made)) continue;
      pieces = names.to_parameter(static_cast<size_t>(made));
    } else {
      const std::vector<int32_t> of = target.parameters_of(static_cast<size_t>(made));
      if (std::none_of(of.begin(), of.end(), [&](int32_t p) { return parameters.contains(p); })) continue;
      Pieces first;
      for (const int32_t p : of)
        for (Piece piece : names.to_parameter(static_cast<size_t>(p))) {
          piece.target = p;
          first.push_back(std::move(piece));
        }
      pieces = layout::simplify(layout::compose(first, target.to_hf(static_cast<size_t>(made))));
    }
    const TargetChunk& box = conversion.plan.targets[chunk];
    const Shape offset = chunk_offset(conversion, chunk, target);
    bool any = false;
    for (const Piece& whole : pieces) {
      if (whole.is_fill() || whole.is_drop() || !updates_of.contains(whole.source)) continue;
      const auto inside = layout::restrict_target(whole, Box::dense(offset, box.size));
      if (!inside) continue;
      for (const uint32_t number : updates_of.at(whole.source)) {
        const AdapterUpdate& update = adapter_.updates()[number];
        std::optional<Piece> part = *inside;
        if (update.expert >= 0) {
          Box expert = Box::whole(names.hf_tensors[static_cast<size_t>(update.weight)].shape);
          expert.offset[update.expert_axis] = update.expert;
          expert.size[update.expert_axis] = 1;
          part = layout::restrict_source(*inside, expert);
          if (!part) continue;
        }
        add_piece(chunk, box, offset, *part, update, number);
        any = true;
      }
    }
    if (!any) continue;
    const std::string& name = conversion.plan.target.tensors[box.tensor].name;
    VIADUCT_USER_CHECK(can_add_low_rank(box.dtype) && (box.encoder == bridge::kNoEncoder),
                       "{} is written as {}: an adapter is merged into float32, bfloat16 and float16", name,
                       box.dtype);
    ++tensors_;
    dtypes_[chunk] = box.dtype;
  }
  for (size_t u = 0; u < covered_.size(); ++u) {
    const AdapterUpdate& update = adapter_.updates()[u];
    VIADUCT_CHECK_EQ(covered_[u], update.in * update.out, "the merge does not change all of {}", update.module);
  }
}

// Lines along the axis of the target that lies densest.
void Merge::add_piece(uint32_t chunk, const TargetChunk& target, const Shape& offset, const Piece& piece,
                      const AdapterUpdate& update, uint32_t number) {
  const Shape strides = row_major_strides(target.size);
  // The target's axes that run with the weight's rows and columns; an axis of size 1 has none.
  int out = -1, in = -1;
  int64_t first = 0;
  for (int axis = 0; axis < target.size.rank(); ++axis) {
    if (piece.axes[axis] == update.out_axis) out = axis;
    if (piece.axes[axis] == update.in_axis) in = axis;
    first += (piece.to.offset[axis] - offset[axis]) * strides[axis];
  }
  const auto step = [&](int axis) { return axis < 0 ? 0 : strides[axis] * piece.to.stride[axis]; };
  const int64_t rows = piece.from.size[update.out_axis], cols = piece.from.size[update.in_axis];
  const int64_t row = piece.from.offset[update.out_axis], row_step = piece.from.stride[update.out_axis];
  const int64_t col = piece.from.offset[update.in_axis], col_step = piece.from.stride[update.in_axis];
  covered_[number] += rows * cols;
  std::vector<Lines>& list = lines_of_[chunk];
  if ((step(in) == 1 || cols == 1) && (col_step == 1 || cols == 1)) {
    list.push_back({number, false, first, step(out), rows, cols, row, row_step, col});
  } else if ((step(out) == 1 || rows == 1) && (row_step == 1 || rows == 1)) {
    list.push_back({number, true, first, step(in), cols, rows, col, col_step, row});
  } else {
    // Columns that lie apart: each is a run of lines of one element.
    for (int64_t c = 0; c < cols; ++c)
      list.push_back({number, false, first + c * step(in), step(out), rows, 1, row, row_step, col + c * col_step});
  }
}

uint64_t Merge::hash() const {
  std::string text =
      fmt::format("merge {} {}", static_cast<int>(rounding_), adapter_.spec().kind == AdapterKind::kDora);
  for (const AdapterUpdate& update : adapter_.updates()) {
    const Adapter::Matrices matrices = adapter_.read(update);
    const auto sum = [](const std::vector<float>& numbers) {
      return xxh3_64({reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)});
    };
    text += fmt::format(" {} {} {:x} {:x} {:x}", update.module, adapter_.scaling(update), sum(matrices.a),
                        sum(matrices.b), sum(matrices.magnitude));
    if (text.size() > (1u << 16)) text = fmt::format("{:x}", xxh3_64(text));
  }
  return xxh3_64(text) | 1;
}

Merge::Shared Merge::factors(uint32_t number, bool transposed) {
  const uint64_t key = uint64_t{number} << 1 | (transposed ? 1 : 0);
  // One thread makes them, the others wait: they need the same.
  const std::lock_guard lock(mutex_);
  for (auto it = cache_.begin(); it != cache_.end(); ++it)
    if (it->first == key) {
      cache_.splice(cache_.begin(), cache_, it);
      return it->second;
    }
  const AdapterUpdate& update = adapter_.updates()[number];
  Adapter::Matrices matrices = adapter_.read(update);
  auto made = std::make_shared<Factors>();
  const int64_t rank = made->rank = update.rank;
  made->scale = static_cast<float>(adapter_.scaling(update));
  made->magnitude = std::move(matrices.magnitude);
  if (!transposed) {
    made->left = std::move(matrices.b);
    made->right = PackedFactor(matrices.a.data(), rank, update.in, update.in, 1);
  } else {
    made->left.resize(matrices.a.size());
    for (int64_t k = 0; k < rank; ++k)
      for (int64_t c = 0; c < update.in; ++c)
        made->left[static_cast<size_t>(c * rank + k)] = matrices.a[static_cast<size_t>(k * update.in + c)];
    made->right = PackedFactor(matrices.b.data(), rank, update.out, 1, rank);
  }
  cache_.emplace_front(key, made);
  size_t bytes = 0;
  for (auto it = cache_.begin(); it != cache_.end();) {
    bytes += it->second->bytes();
    it = bytes > kCacheBytes && it != cache_.begin() ? cache_.erase(it) : std::next(it);
  }
  return made;
}

// The part of `lines` that lies in elements [begin, end) of the chunk, which begin at `data`.
void Merge::change_lines(const Lines& lines, DType dtype, int64_t begin, int64_t end, std::byte* data) {
  const int64_t size = num_bytes(dtype, 1);
  const int64_t step = std::max<int64_t>(lines.step, 1);
  const int64_t last = lines.first + (lines.rows - 1) * lines.step + lines.cols;
  if (lines.first >= end || last <= begin) return;
  const Shared factors = this->factors(lines.update, lines.transposed);
  const auto change = [&](int64_t row, int64_t rows, int64_t from, int64_t to) {
    LowRankTile tile;
    tile.weight = data + (lines.first + row * lines.step + from - begin) * size;
    tile.row_stride = lines.step;
    tile.rows = rows;
    tile.cols = to - from;
    const int64_t left_row = lines.from_row + row * lines.row_step;
    tile.left = factors->left.data() + left_row * factors->rank;
    tile.left_stride = lines.row_step * factors->rank;
    tile.right = &factors->right;
    tile.first_col = lines.from_col + from;
    if (!dora_) return add_low_rank(dtype, tile, factors->scale, rounding_);
    VIADUCT_CHECK(!lines.transposed, "DoRA of a transposed weight");
    if (measuring_) {
      std::vector<double> sums(static_cast<size_t>(rows));
      add_row_squares(dtype, tile, factors->scale, sums.data());
      const std::lock_guard lock(mutex_);
      for (int64_t i = 0; i < rows; ++i)
        norms_[lines.update][static_cast<size_t>(left_row + i * lines.row_step)][tile.first_col] =
            sums[static_cast<size_t>(i)];
      return;
    }
    std::vector<float> of_rows(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i)
      of_rows[static_cast<size_t>(i)] =
          row_factors_[lines.update][static_cast<size_t>(left_row + i * lines.row_step)];
    add_low_rank(dtype, tile, factors->scale, rounding_, of_rows.data());
  };
  int64_t row = lines.first >= begin ? 0 : (begin - lines.first) / step;
  while (row < lines.rows) {
    const int64_t at = lines.first + row * lines.step;
    if (at >= end) break;
    const int64_t from = std::max<int64_t>(0, begin - at), to = std::min(lines.cols, end - at);
    if (from >= lines.cols) {
      ++row;
    } else if (from > 0 || to < lines.cols) {
      change(row++, 1, from, to);
    } else {
      // All lines that lie whole in the range.
      const int64_t whole = std::min(lines.rows - row, (end - at - lines.cols) / step + 1);
      change(row, whole, 0, lines.cols);
      row += whole;
    }
  }
}

void Merge::apply(uint32_t chunk, uint64_t first_byte, std::span<std::byte> bytes) {
  const DType dtype = dtypes_.at(chunk);
  const int64_t size = num_bytes(dtype, 1);
  const int64_t begin = static_cast<int64_t>(first_byte) / size;
  const int64_t end = begin + static_cast<int64_t>(bytes.size()) / size;
  for (const Lines& lines : lines_of_.at(chunk)) change_lines(lines, dtype, begin, end, bytes.data());
}

// DoRA: the norms of the changed rows must be known before the first of them can be written.
void Merge::prepare(const bridge::TransferPlan& plan, const std::vector<Path>& sources,
                    const bridge::ExecuteOptions& options) {
  if (!dora_ || !row_factors_.empty()) return;
  norms_.resize(adapter_.updates().size());
  for (size_t u = 0; u < norms_.size(); ++u) norms_[u].resize(static_cast<size_t>(adapter_.updates()[u].out));
  bridge::ExecuteOptions quiet = options;
  quiet.progress = nullptr;
  quiet.journal = nullptr;
  measuring_ = true;
  const auto source = bridge::open_source(plan, sources);
  const auto sink = bridge::discard_sink();
  bridge::execute(plan, *source, *sink, quiet);
  measuring_ = false;
  row_factors_.resize(norms_.size());
  for (size_t u = 0; u < norms_.size(); ++u) {
    const std::vector<float> magnitude = adapter_.read(adapter_.updates()[u]).magnitude;
    row_factors_[u].resize(magnitude.size());
    for (size_t row = 0; row < magnitude.size(); ++row) {
      double sum = 0;
      for (const auto& [col, part] : norms_[u][row]) sum += part;
      row_factors_[u][row] = magnitude[row] / static_cast<float>(std::sqrt(sum));
    }
  }
  norms_.clear();
}

}  // namespace

void merge_into(Conversion& conversion, const bridge::Checkpoint& base, const Adapter& adapter, Rounding rounding) {
  auto merge = std::make_shared<Merge>(conversion, base, adapter, rounding);
  conversion.plan.change = merge->hash();
  conversion.notes.push_back(fmt::format("{} changes of the adapter {} are merged into {} tensors",
                                         adapter.updates().size(), adapter.path().string(), merge->tensors()));
  conversion.change = std::move(merge);
}

}  // namespace viaduct::adapters
