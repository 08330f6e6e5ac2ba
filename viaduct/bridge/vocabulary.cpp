// More or fewer tokens than the source has: Checkpoint::fit_vocabulary.
#include <algorithm>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/core/error.h"
#include "viaduct/models/hf_config.h"

namespace viaduct::bridge {

using layout::Box;
using layout::Pieces;

namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;
constexpr int64_t kRowsBytes = 1 << 20;

// Rows [from, rows of the tensor) that are not all zero bits; nullopt when they are not stored row by row.
std::optional<int64_t> count_filled_rows(const StoredTensors& stored, const PlainTensor& tensor, int64_t from) {
  if (tensor.shape.rank() != 2 || !is_byte_sized(tensor.dtype) || is_block_quantized(tensor.dtype))
    return std::nullopt;
  std::vector<bool> filled(static_cast<size_t>(std::max<int64_t>(tensor.shape[0] - from, 0)));
  std::vector<std::byte> rows;
  for (const PlainTensor::Chunk& chunk : tensor.chunks) {
    const Shape& size = chunk.place.size;
    const Shape strides = chunk.place.strides.empty() ? row_major_strides(size) : chunk.place.strides;
    if (strides[1] != 1 && size[1] > 1) return std::nullopt;
    const auto row_bytes = static_cast<size_t>(num_bytes(tensor.dtype, size[1]));
    const auto step = static_cast<size_t>(num_bytes(tensor.dtype, strides[0]));
    // Some rows at a time, with what lies between them.
    const int64_t together = std::max<int64_t>(1, kRowsBytes / static_cast<int64_t>(std::max<size_t>(step, 1)));
    for (int64_t first = std::max<int64_t>(from - chunk.offset[0], 0); first < size[0]; first += together) {
      const int64_t end = std::min(first + together, size[0]);
      rows.resize(static_cast<size_t>(end - first - 1) * step + row_bytes);
      read_bytes(stored, chunk.place.file, chunk.place.byte_offset + static_cast<uint64_t>(first) * step, rows);
      for (int64_t i = first; i < end; ++i) {
        const auto row = std::span(rows).subspan(static_cast<size_t>(i - first) * step, row_bytes);
        if (std::any_of(row.begin(), row.end(), [](std::byte byte) { return byte != std::byte{0}; }))
          filled[static_cast<size_t>(chunk.offset[0] + i - from)] = true;
      }
    }
  }
  return std::count(filled.begin(), filled.end(), true);
}

// Can `stored` rows be `rows` rounded up? To a multiple of make_vocab_size_divisible_by (a power of two) times the
// tensor-parallel size (a power of two times little else).
bool is_rounded_up(int64_t rows, int64_t stored) {
  for (const int64_t odd : {1, 3, 5, 7}) {
    if (stored % odd != 0) continue;
    int64_t divisor = odd;
    while (stored % (divisor * 2) == 0) divisor *= 2;
    if (stored - rows < divisor) return true;
  }
  return false;
}

std::string filled_text(std::optional<int64_t> filled) {
  if (!filled) return "";
  return *filled == 0 ? ", all of them zero" : fmt::format(", {} of them not zero", *filled);
}

}  // namespace

// `before`, `after`: of the parameter, or Hugging Face tensor, `id`.
void Checkpoint::resize_rows(size_t id, const Shape& before, const Shape& after) {
  const std::string& name = world_ == World::kMegatron ? graph_.parameters[id].name : graph_.hf_tensors[id].name;
  const bool whole = own_[id] >= 0;
  // A stored tensor may have more rows than the model had; they are real.
  const PlainTensor* stored = whole ? &stored_.tensors[static_cast<size_t>(own_[id])] : nullptr;
  const int64_t rows = stored ? stored->shape[0] : before[0];
  Shape size = after;
  size[0] = std::min(rows, after[0]);
  Pieces pieces;
  if (whole) {
    pieces.push_back(whole_piece(own_[id], size));
  } else {
    for (const layout::Piece& piece : made_of_.at(id))
      if (auto part = layout::restrict_target(piece, Box::whole(size))) pieces.push_back(std::move(*part));
  }
  if (rows > after[0]) {
    notes_.push_back(fmt::format("{}: {} of {} rows are left; {} dropped{}", name, after[0], rows, rows - after[0],
                                 stored ? filled_text(count_filled_rows(stored_, *stored, after[0])) : ""));
  } else if (rows < after[0]) {
    layout::Piece fill;
    fill.target = 0;
    Shape offset = Shape::filled(after.rank(), 0), missing = after;
    offset[0] = rows;
    missing[0] = after[0] - rows;
    fill.to = Box::dense(offset, missing);
    pieces.push_back(fill);
    notes_.push_back(
        fmt::format("{}: {} rows become {}; the {} new ones are zero", name, rows, after[0], after[0] - rows));
  }
  made_of_[id] = std::move(pieces);
  own_[id] = -1;
}

// config.json, its copies and the list of the source's tensors.
void Checkpoint::resize_record(int64_t rows) {
  if (record_.config) {
    Json& language = models::language_part(*record_.config);
    (language.contains("vocab_size") ? language : *record_.config).set("vocab_size", Json(rows));
    std::erase_if(record_.side_files, [](const SideFile& file) { return file.name == "config.json"; });
    record_.side_files.push_back({"config.json", {}, record_.config->dump(2) + "\n"});
  }
  for (ListedTensor& listed : record_.tensors) {
    std::string_view name = listed.name;
    for (const auto& [copy, original] : record_.copies)
      if (copy == name) name = original;
    if (const auto it = graph_.hf_ids.find(std::string(name)); it != graph_.hf_ids.end())
      listed.shape = graph_.hf_tensors[static_cast<size_t>(it->second)].shape;
  }
}

void Checkpoint::fit_vocabulary(std::optional<int64_t> rows) {
  if (!rows) {
    for (size_t id = 0; id < own_.size() && world_ == World::kMegatron; ++id) {
      if (!graph_.parameters[id].vocabulary || own_[id] < 0) continue;
      const PlainTensor& stored = stored_.tensors[static_cast<size_t>(own_[id])];
      const int64_t model = graph_.parameters[id].shape[0];
      if (stored.shape[0] == model) continue;
      const bool padding = is_rounded_up(model, stored.shape[0]);
      VIADUCT_USER_CHECK(padding || count_filled_rows(stored_, stored, model).value_or(0) == 0,
                         "{}: {} has {} rows, the model {} tokens, and the rows beyond hold values that no padding "
                         "explains. Say with --vocab-size how many to keep: {} drops them",
                         path_.string(), graph_.parameters[id].name, stored.shape[0], model, model);
      notes_.push_back(fmt::format("{}: {} rows are stored, the model has {}; the rest is padding and is left out",
                                   graph_.parameters[id].name, stored.shape[0], model));
    }
    return;
  }
  VIADUCT_USER_CHECK(*rows >= 1 && *rows <= kMostTokens, "--vocab-size {} is not in 1 to {}", *rows, kMostTokens);
  models::ArchSpec arch = graph_.arch;
  arch.embedding.vocab_size = *rows;
  const WeightGraph before = std::exchange(graph_, build_weight_graph(arch));
  for (size_t id = 0; id < own_.size(); ++id) {
    const bool megatron = world_ == World::kMegatron;
    const Shape& old_shape = megatron ? before.parameters[id].shape : before.hf_tensors[id].shape;
    const Shape& new_shape = megatron ? graph_.parameters[id].shape : graph_.hf_tensors[id].shape;
    const bool vocabulary = megatron ? graph_.parameters[id].vocabulary : old_shape != new_shape;
    if (vocabulary) resize_rows(id, old_shape, new_shape);
  }
  resize_record(*rows);
}

}  // namespace viaduct::bridge
