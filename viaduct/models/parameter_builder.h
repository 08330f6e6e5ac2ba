// Appends a model's parameters one by one, with what is common to the part that they belong to.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "viaduct/models/parameters.h"

namespace viaduct::models {

/// The list of parameters as it grows.
class ParameterBuilder {
 public:
  /// `arch` outlives the builder.
  explicit ParameterBuilder(const ArchSpec& arch) : arch_(arch) {}

  /// The model whose parameters they are.
  const ArchSpec& arch() const { return arch_; }

  /// What follows is named `prefix` + name and lies in the layer or block that these members name.
  struct Part {
    std::string prefix;
    Place place = Place::kFirstStage;
    int32_t layer = -1;
    int32_t mtp_layer = -1;
    int32_t block = -1;
    int32_t num_blocks = 0;
  };
  /// The parameters added from now on belong to this part.
  void enter(Part part) { part_ = std::move(part); }

  /// A parameter of a Transformer Engine module, unless `extra_state` is false.
  Parameter& add(std::string name, Shape shape, layout::Split split = layout::Split::replicated(),
                 bool extra_state = true);
  /// A parameter of a plain module.
  Parameter& add_plain(std::string name, Shape shape, layout::Split split = layout::Split::replicated()) {
    return add(std::move(name), shape, std::move(split), false);
  }
  /// Weight, and bias where the norm has one. `name` ends in "." for a norm of its own, in "layer_norm_" for one
  /// that is fused into the linear layer behind it.
  void add_norm(const std::string& name, int64_t size, NormKind kind);
  /// The same, of the language model's kind.
  void add_norm(const std::string& name, int64_t size) { add_norm(name, size, arch_.norm.kind); }

  /// The parameters in the order of their addition. Called once.
  std::vector<Parameter> take() { return std::move(result_); }

 private:
  const ArchSpec& arch_;
  std::vector<Parameter> result_;
  Part part_;
};

/// Appends one layer's parameters (layer_parameters.cpp).
void add_layer(ParameterBuilder& builder, const LayerSpec& layer);

/// Appends the vision tower's and projector's parameters (vision_parameters.cpp).
void add_vision(ParameterBuilder& builder, const VisionSpec& vision);

}  // namespace viaduct::models
