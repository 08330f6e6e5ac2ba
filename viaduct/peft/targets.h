// Which linear layers of a model are adapted. Arithmetic of names: every rank finds the same, whatever it holds.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/models/parameters.h"
#include "viaduct/peft/options.h"

namespace viaduct::peft {

/// A linear layer that gets an adapter.
struct Target {
  std::string module;  // of the whole model: "decoder.layers.3.self_attention.linear_qkv"
  /// Of canonical LoRA the parts that get one each: "adapter_q", "adapter_gate"; empty: one for the whole layer.
  std::set<std::string> parts;
};

/// Does a pattern name a module: is it the module's last word, or does it match all of its path? "*" stands for any
/// text, a dot for itself, and the rest is a regular expression: [0-3] is one of a range.
bool names_module(std::string_view pattern, std::string_view module);

/// In the order of `parameters`, the whole model's. UserError for a name that no layer has, with the names that
/// there are.
std::vector<Target> find_targets(const std::vector<models::Parameter>& parameters, const models::ArchSpec& arch,
                                 const PeftOptions& options);

/// The rank of the matrices of a layer whose weight is `parameter`: peft.dim, of experts with normalize_moe_lora
/// dim / moe_router_topk, widened until `etp` expert-tensor-parallel ranks can share what they cut by it. UserError
/// when moe_router_topk does not divide dim.
int64_t adapter_rank(const PeftOptions& options, const models::Parameter& parameter, const models::ArchSpec& arch,
                     int64_t etp);

}  // namespace viaduct::peft
