// AdapterGraph: for one base model, every Megatron parameter and every PEFT tensor of an adapter, and the pieces
// between them. Nothing of it is written down anywhere: that the rows of q, k and v are interleaved, that an expert
// is a slice of a larger tensor, all follows from the rule of the weight that is adapted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/bridge/weight_graph.h"

namespace viaduct::adapters {

/// A linear layer of the base that has an adapter.
struct AdaptedLinear {
  size_t parameter = 0;  // of the base's graph: a weight [out, in]
  int component = -1;    // which of the Hugging Face tensors that it is made of; -1: all of them, with one lora_A
  int64_t rank = 0;      // of PEFT's matrices
  int64_t stored_rank =
      0;  // of Megatron's, which has one for all layers: rows and columns beyond are zero; 0: rank
};

/// What an adapter does to one Hugging Face weight, or to one expert's part of one.
struct AdapterUpdate {
  int32_t weight = -1;            // of the base graph's hf_tensors
  std::string module;             // PEFT's name of it: "model.layers.0.self_attn.q_proj"
  int32_t expert = -1;            // of a tensor that holds all experts
  int expert_axis = -1;           // the axis of the weight that counts experts
  int out_axis = 0, in_axis = 1;  // of the weight
  int64_t rank = 0, in = 0, out = 0;
  // Pieces from hf_tensors of AdapterGraph::graph to lora_A [rank, in], lora_B [out, rank] and, for DoRA, the norms
  // [out]; target 0.
  layout::Pieces a, b, magnitude;
};

/// An adapter of a base: its tensors on both sides, and what they do.
struct AdapterGraph {
  /// Parameters: the adapter's, under Megatron Bridge's names. Hugging Face tensors: PEFT's, each value once.
  bridge::WeightGraph graph;
  /// PEFT's names that stand for a tensor of the graph under another name: the lora_A that q, k and v share.
  std::vector<std::pair<std::string, int32_t>> copies;
  std::vector<AdapterUpdate> updates;  // in the order of the base's parameters
};

/// How `linears` (in the order of the base's parameters) change `base`. `dora`: with the rows' norms, stored as
/// `tp` ranks have them. UserError naming the weight when it cannot have an adapter.
AdapterGraph build_adapter_graph(const bridge::WeightGraph& base, const std::vector<AdaptedLinear>& linears,
                                 bool dora, int tp);

/// Is the parameter a linear layer's weight, which can have an adapter?
bool is_linear(const models::Parameter& parameter);
/// The part of a canonical adapter's names that stands for a component of `parameter`: "adapter_q" ...; empty where
/// Megatron knows no canonical adapter: one for all components, then.
std::string_view component_name(const bridge::WeightGraph& base, size_t parameter, int component);
/// The names of the adapter's parameters begin with this: "decoder.layers.0.self_attention.linear_qkv.adapter.".
std::string adapter_prefix(const models::Parameter& parameter);

/// An architecture under all names that its Hugging Face tensors have, those of transformers' modules first: PEFT
/// names modules, not stored tensors.
std::vector<models::ArchSpec> named_forms(const models::ArchSpec& arch);
/// The name that PEFT gives to the module of a Hugging Face weight: without ".weight".
std::string peft_module(std::string_view weight);
/// What the names of a weight's matrices begin with: "base_model.model.<module>.". `packed`: the adapted tensors
/// that hold all experts. Such a tensor goes by the name of the module that it is in, with ".base_layer" for each
/// of `packed` in the same module that comes before it in the alphabet.
std::string peft_prefix(const std::string& weight, const std::vector<std::string>& packed);

}  // namespace viaduct::adapters
