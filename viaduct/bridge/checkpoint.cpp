#include "viaduct/bridge/checkpoint.h"

#include "viaduct/bridge/hf_checkpoint.h"
#include "viaduct/bridge/megatron_checkpoint.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"

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
      const bool both = is_floating(*result) && is_floating(plain) && is_byte_sized(*result) && is_byte_sized(plain);
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

Pieces Checkpoint::parameter_pieces(size_t parameter) const {
  if (world_ == World::kMegatron) return own_[parameter];
  Pieces first;
  for (const layout::Piece& piece : graph_.to_parameter[parameter]) {
    if (piece.is_fill()) continue;
    bool seen = false;
    for (const layout::Piece& known : first) seen |= known.target == piece.source;
    if (seen) continue;
    for (layout::Piece own : own_[static_cast<size_t>(piece.source)]) {
      own.target = piece.source;
      first.push_back(own);
    }
  }
  return layout::compose(first, graph_.to_parameter[parameter]);
}

Pieces Checkpoint::hf_pieces(size_t hf_tensor) const {
  if (world_ == World::kHuggingFace) return own_[hf_tensor];
  Pieces first;
  int32_t last = layout::kNoTensor;
  for (const layout::Piece& piece : graph_.to_hf[hf_tensor]) {
    if (piece.is_fill() || piece.source == last) continue;
    last = piece.source;
    bool seen = false;
    for (const layout::Piece& known : first) seen |= known.target == piece.source;
    if (seen) continue;
    for (layout::Piece own : own_[static_cast<size_t>(piece.source)]) {
      own.target = piece.source;
      first.push_back(own);
    }
  }
  return layout::compose(first, graph_.to_hf[hf_tensor]);
}

PlainTensor plain_tensor(const formats::StoredTensor& stored) {
  PlainTensor plain;
  plain.name = stored.name;
  plain.dtype = stored.dtype;
  plain.shape = stored.shape;
  for (const formats::StoredChunk& chunk : stored.chunks)
    plain.chunks.push_back({chunk.offset, {chunk.file, chunk.byte_offset, stored.dtype, chunk.size, chunk.strides}});
  return plain;
}

RawCheckpoint open_raw_checkpoint(const Path& path, std::optional<int64_t> iteration) {
  std::unique_ptr<formats::TensorReader> reader;
  if (is_megatron_checkpoint(path)) {
    reader = formats::open_torch_dist(formats::resolve_iteration(path, iteration));
  } else {
    reader = formats::open_reader(path);
  }
  RawCheckpoint raw;
  raw.format = reader->format();
  raw.stored.files = reader->files();
  for (const formats::StoredTensor& tensor : reader->tensors()) raw.stored.tensors.push_back(plain_tensor(tensor));
  return raw;
}

std::unique_ptr<Checkpoint> open_checkpoint(const Path& path, const OpenOptions& options) {
  VIADUCT_USER_CHECK(std::filesystem::exists(path),
                     "{} does not exist. A model is a Hugging Face folder, a GGUF file or a Megatron checkpoint on "
                     "this machine", path.string());
  if (is_megatron_checkpoint(path)) return open_megatron_checkpoint(path, options);
  VIADUCT_USER_CHECK(!options.iteration, "{} is not a Megatron checkpoint, so it has no iteration {}", path.string(),
                     *options.iteration);
  return open_hf_checkpoint(path);
}

}  // namespace viaduct::bridge
