// What differs between the architectures whose GGUF files are read: tensor names and forms, config.json.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/models/gguf_keys.h"

namespace viaduct::models {

/// How Hugging Face's tensors are made of one of the file.
enum class GgufForm : uint8_t {
  kSame,
  kQuery,        // the two halves of each head's rows have taken turns (undo_rotary_permutation)
  kKey,          // the same for the heads of keys
  kExperts,      // [experts, ...]: one tensor an expert, whose number is the "*" of its name
  kBothExperts,  // the same of gate's rows and then up's: "gate_up_proj" of the name is gate_proj and up_proj
  // Parts of one tensor.
  kKeyUp,  // [heads, rank, nope]: with kValueUp [heads, v, rank] the rows of each head
  kValueUp,
  kGate,  // [experts, out, in] or [experts, out]: by turns with kUp, [experts, in, 2 out] or [experts, 2 out]
  kUp,
  kDown,  // [experts, out, in] as [experts, in, out]; [experts, out] as it is
};

/// A tensor "blk.N.GGUF.weight" (or .bias) and what it is below "model.layers.N.". Where `gguf` ends with
/// ".weight" or ".bias", it stands for that one alone and `hf` is all of the name.
struct GgufTensorName {
  std::string_view gguf;
  std::string_view hf;
  GgufForm form = GgufForm::kSame;
};

/// Sizes that every architecture has.
struct GgufHeads {
  int64_t query = 0;
  int64_t key_value = 0;
  int64_t dim = 0;
};

/// What is read of one architecture, and how its files differ from others.
struct GgufArchitecture {
  std::string_view name;  // general.architecture
  /// The first is taken unless `set_config` says otherwise.
  std::vector<std::string_view> hf_classes = {};
  std::string_view model_type = "";
  std::vector<std::span<const GgufTensorName>> tensors = {};
  float norm_offset = 0;                        // norms are stored as Hugging Face's weight plus this
  std::vector<std::string_view> may_have = {};  // keys that other architectures have no place for
  bool yarn = false;                            // rope_scaling is set_config's business
  GgufHeads (*read_heads)(const GgufKeys& keys) = nullptr;
  /// Adds to config.json, and replaces in it, what is not common to all.
  void (*set_config)(const GgufKeys& keys, const GgufHeads& heads, Json& config) = nullptr;
};

/// All, in the order in which messages list them.
const std::vector<GgufArchitecture>& gguf_architectures();
/// UserError, naming those that can be read, for a file of another.
const GgufArchitecture& gguf_architecture(const formats::GgufFile& file);

/// config.json's rope_scaling for the file's keys; null when there is none. UserError for a kind of scaling that
/// is neither linear nor one of Llama 3.1's factors.
Json gguf_rope_scaling(const GgufKeys& keys, double theta, int64_t head_dim);
/// The same for yarn, which must be there.
Json gguf_yarn(const GgufKeys& keys);

}  // namespace viaduct::models
