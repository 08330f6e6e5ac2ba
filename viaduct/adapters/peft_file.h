// The tensors of a PEFT folder by the modules that they belong to.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::adapters {

/// The parts of an adapter of one weight: lora_A, lora_B, and DoRA's norms.
enum class Half { kA, kB, kMagnitude };

/// What the file has for one Hugging Face weight, or for one that holds all experts.
struct Halves {
  const formats::StoredTensor* of[3] = {};

  /// The tensor of a part; nullptr when the file has none.
  const formats::StoredTensor*& operator[](Half half) { return of[static_cast<size_t>(half)]; }
  const formats::StoredTensor* operator[](Half half) const { return of[static_cast<size_t>(half)]; }
};

/// An opened file of adapter tensors.
struct PeftFile {
  std::string path;
  std::unique_ptr<formats::TensorReader> reader;
  std::string header;                     // of safetensors, its text
  std::map<std::string, Halves> modules;  // by module, as the file names it: without "base_model.model."
};

/// adapter_model.safetensors, else adapter_model.bin. UserError naming file and tensor for what is no part of a
/// LoRA adapter: trained biases, whole modules, embeddings.
PeftFile open_peft_file(const Path& folder);

}  // namespace viaduct::adapters
