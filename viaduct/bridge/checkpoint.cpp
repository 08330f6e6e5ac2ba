#include "viaduct/bridge/checkpoint.h"

#include <algorithm>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/fsdp_checkpoint.h"
#include "viaduct/bridge/hf_checkpoint.h"
#include "viaduct/bridge/megatron_checkpoint.h"
#include "viaduct/bridge/rank_checkpoint.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/hub/download.h"

namespace viaduct::bridge {

using layout::Pieces;

layout::Piece whole_piece(int32_t id, const Shape& shape) {
  layout::Piece piece;
  piece.source = id;
  piece.target = 0;
  piece.from = piece.to = layout::Box::whole(shape);
  piece.axes = layout::AxisMap::identity(shape.rank());
  return piece;
}

DType Checkpoint::dtype_of(const Pieces& pieces) const {
  std::optional<DType> result;
  for (const layout::Piece& piece : pieces) {
    if (piece.is_fill()) continue;
    const DType dtype = stored_.tensors[static_cast<size_t>(piece.source)].dtype;
    // GGUF's block formats stand for float32 values.
    const DType plain = is_block_quantized(dtype) ? DType::kF32 : dtype;
    if (!result) {
      result = plain;
    } else if (*result != plain) {
      const bool both =
          is_floating(*result) && is_floating(plain) && is_byte_sized(*result) && is_byte_sized(plain);
      VIADUCT_USER_CHECK(both, "the parts of one weight have the types {} and {}: {} holds {}", *result, plain,
                         path_.string(), stored_.tensors[static_cast<size_t>(piece.source)].name);
      // float16 and bfloat16 have no common type below float32.
      if (element_size(plain) == element_size(*result)) {
        result = DType::kF32;
      } else if (element_size(plain) > element_size(*result)) {
        result = plain;
      }
    }
  }
  VIADUCT_CHECK(result.has_value());
  return *result;
}

Pieces Checkpoint::own_pieces(size_t id) const {
  if (own_[id] < 0) return made_of_.at(id);
  // A stored tensor may have more rows than the model (a padded vocabulary).
  const Shape& shape = world_ == World::kMegatron ? graph_.parameters[id].shape : graph_.hf_tensors[id].shape;
  return {whole_piece(own_[id], shape)};
}

Pieces Checkpoint::through_own(Pieces pieces) const {
  // Usually every tensor is a stored one, from its first element on: only the ids change.
  bool stored = true;
  for (const layout::Piece& piece : pieces)
    stored &= piece.is_fill() || own_[static_cast<size_t>(piece.source)] >= 0;
  if (stored) {
    for (layout::Piece& piece : pieces)
      if (!piece.is_fill()) piece.source = own_[static_cast<size_t>(piece.source)];
    return pieces;
  }
  Pieces first;
  std::vector<int32_t> seen;
  for (const layout::Piece& piece : pieces) {
    if (piece.is_fill() || std::find(seen.begin(), seen.end(), piece.source) != seen.end()) continue;
    seen.push_back(piece.source);
    for (layout::Piece part : own_pieces(static_cast<size_t>(piece.source))) {
      part.target = piece.source;
      first.push_back(part);
    }
  }
  return layout::compose(first, pieces);
}

Pieces Checkpoint::parameter_pieces(size_t parameter) const {
  return world_ == World::kMegatron ? own_pieces(parameter) : through_own(graph_.to_parameter(parameter));
}

Pieces Checkpoint::hf_pieces(size_t hf_tensor) const {
  return world_ == World::kHuggingFace ? own_pieces(hf_tensor) : through_own(graph_.to_hf(hf_tensor));
}

Pieces Checkpoint::hf_pieces_in(const WeightGraph& graph, size_t hf_tensor) const {
  const Pieces second = graph.to_hf(hf_tensor);
  Pieces first;
  std::vector<int32_t> seen;
  for (const layout::Piece& piece : second) {
    if (piece.is_fill() || std::find(seen.begin(), seen.end(), piece.source) != seen.end()) continue;
    seen.push_back(piece.source);
    for (layout::Piece part : parameter_pieces(static_cast<size_t>(piece.source))) {
      part.target = piece.source;
      first.push_back(part);
    }
  }
  return layout::compose(first, second);
}

void read_bytes(const StoredTensors& stored, uint32_t file, uint64_t offset, std::span<std::byte> to) {
  if (stored.store) return stored.store->read(stored.files.at(file), offset, to);
  File::open(stored.files.at(file), File::Mode::kRead).read(offset, to);
}

formats::ReadFile read_file(const StoredTensors& stored) {
  if (!stored.store) return nullptr;
  return [store = stored.store](const Path& file, uint64_t offset, std::span<std::byte> to) {
    store->read(file, offset, to);
  };
}

PlainTensor plain_tensor(const formats::StoredTensor& stored) {
  PlainTensor plain;
  plain.name = stored.name;
  plain.dtype = stored.dtype;
  plain.shape = stored.shape;
  for (const formats::StoredChunk& chunk : stored.chunks)
    plain.chunks.push_back(
        {chunk.offset, {chunk.file, chunk.byte_offset, stored.dtype, chunk.size, chunk.strides}});
  return plain;
}

RawCheckpoint open_raw_checkpoint(const Path& path, std::optional<int64_t> iteration) {
  const auto reader =
      formats::open_reader(is_megatron_checkpoint(path) ? formats::resolve_iteration(path, iteration) : path);
  RawCheckpoint raw;
  raw.format = reader->format();
  raw.stored.files = reader->files();
  for (const formats::StoredTensor& tensor : reader->tensors()) raw.stored.tensors.push_back(plain_tensor(tensor));
  return raw;
}

namespace {

std::unique_ptr<Checkpoint> open_in_its_form(const Path& path, const OpenOptions& options) {
  if (is_megatron_checkpoint(path)) {
    const formats::IterationFolder found = formats::find_iteration(path, options.iteration);
    switch (found.form) {
      case formats::MegatronForm::kTorchDist: return open_megatron_checkpoint(found.folder, options);
      case formats::MegatronForm::kRankFolders: return open_rank_checkpoint(found.folder, options);
      case formats::MegatronForm::kPlainDcp: return open_fsdp_checkpoint(found.folder, options);
    }
  }
  VIADUCT_USER_CHECK(!options.iteration, "{} is not a Megatron checkpoint, so it has no iteration {}",
                     path.string(), *options.iteration);
  return open_hf_checkpoint(path, options.store);
}

}  // namespace

std::unique_ptr<Checkpoint> open_checkpoint(const Path& path, const OpenOptions& options) {
  VIADUCT_USER_CHECK(std::filesystem::exists(path),
                     "{} does not exist. A model is a Hugging Face folder, a GGUF file or a Megatron checkpoint on "
                     "this machine",
                     path.string());
  auto checkpoint = open_in_its_form(path, options);
  checkpoint->fit_vocabulary(options.vocab_size);
  return checkpoint;
}

std::unique_ptr<Checkpoint> fetch_checkpoint(const std::string& path_or_name, const OpenOptions& options,
                                             Progress* progress) {
  const hub::ResolvedModel model = hub::resolve_model(path_or_name, progress);
  auto checkpoint = open_checkpoint(model.path, options);
  if (!model.name.empty()) checkpoint->set_origin(model.name, model.commit);
  return checkpoint;
}

}  // namespace viaduct::bridge
