// Quantised Hugging Face folders: which tensors stand for which weights. A weight that is stored as codes and
// scales (FP8, MXFP4, INT4) appears as one logical tensor with its plain name and shape; what else belongs to it
// (scales, activation scales, packed shapes) is beside it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/core/json.h"

namespace viaduct::bridge {

/// How a folder is quantised, as its configuration says.
struct Quantization {
  /// Names of a form and of the tensors that stand for the weight X.
  enum class Method {
    kFp8,             // transformers' and DeepSeek's: X.weight with X.weight_scale_inv, by blocks or by tensor
    kModelOptFp8,     // X.weight, X.weight_scale by tensor, X.input_scale; k_scale and v_scale of attention
    kMxfp4,           // X_blocks, X_scales: 32 E2M1 codes along the last axis share a power of two
    kCompressedFp8,   // compressed-tensors "float-quantized": X.weight, X.weight_scale by tensor or channel
    kCompressedInt4,  // compressed-tensors "pack-quantized": X.weight_packed, X.weight_scale, X.weight_shape
  };
  Method method{};
  int64_t block_rows = 0, block_columns = 0;  // of kFp8; 0: one scale a tensor or channel
  int64_t group = 0;                          // elements along the last axis of kCompressedInt4; 0: a whole row
};

/// What config.json ("quantization_config", at the top or in the language model's part) or else
/// hf_quant_config.json says; nullopt for a plain model. UserError naming `origin` for a method that is not read
/// (AWQ, GPTQ, NVFP4 ...), with what to do.
std::optional<Quantization> read_quantization(const Json& config, const Json* hf_quant_config,
                                              const std::string& origin);
/// The same for a source whose files are known. The second file is among its side files.
std::optional<Quantization> read_quantization(const SourceRecord& record);

/// A tensor as a source lists it.
struct NamedTensor {
  std::string_view name;
  DType dtype{};
  Shape shape;
};

/// A weight, or any other tensor, as a model knows it.
struct LogicalTensor {
  std::string_view name;
  DType dtype{};        // of its values
  Shape shape;          // of its values
  int32_t stored = -1;  // the listed tensor that holds its values or codes
  int32_t scales = -1;  // the one that holds its scales; -1: it is stored as it is
  int32_t form = -1;    // index into LogicalTensors::forms, with scales
};

/// What a source holds, seen as weights.
struct LogicalTensors {
  std::vector<LogicalTensor> tensors;  // in the order of the list; names live as long as the list's
  std::vector<ScaledForm> forms;
  std::vector<int32_t> beside;  // listed tensors that are no weights: scales and what stands beside codes

  /// nullptr when there is none of that name.
  const LogicalTensor* find(std::string_view name) const;

 private:
  friend LogicalTensors logical_tensors(std::span<const NamedTensor>, const std::optional<Quantization>&,
                                        const std::string&);
  std::unordered_map<std::string_view, size_t> by_name_;
};

/// UserError naming `origin` and up to 20 tensors: codes without scales, scales without codes, scales of another
/// shape or type than the codes need. Without a quantization every tensor is taken as it is.
LogicalTensors logical_tensors(std::span<const NamedTensor> listed, const std::optional<Quantization>& quantization,
                               const std::string& origin);

/// The tensors of an open source, or of the record of one.
std::vector<NamedTensor> named_tensors(const formats::TensorReader& reader);
std::vector<NamedTensor> named_tensors(const SourceRecord& record);

/// The tensor in its place. With scales an entry is added to stored.scales, whose forms must be the list's.
PlainTensor plain_tensor(const LogicalTensor& logical, const formats::TensorReader& reader, StoredTensors& stored);

/// `config` without what it says of quantisation.
void erase_quantization(Json& config);

}  // namespace viaduct::bridge
