#include "cli/train/trace.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <array>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/infer/chunk_forward.h"
#include "viaduct/topology/pipeline.h"
#include "viaduct/torchx/stored_tensor.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::cli {

namespace {

// Modules of a layer in the order in which they are computed; their names sort otherwise.
constexpr std::array<std::string_view, 3> kOrder = {"self_attention", "mlp", "layer"};

at::Tensor on_host(const at::Tensor& tensor) {
  const bool wide = tensor.scalar_type() == at::kDouble;
  return tensor.to(at::kCPU, wide ? at::kDouble : at::kFloat).contiguous();
}

// What a rank of another pipeline stage computed, on all of them.
at::Tensor from_stage(const at::Tensor& own, at::IntArrayRef sizes, int stage, const nn::ModelContext& context) {
  at::Tensor tensor = own.defined() ? own.contiguous() : at::empty(sizes, context.options());
  context.mesh->pp.broadcast(tensor, stage);
  return tensor;
}

at::Tensor read(const formats::SafetensorsFile& file, const std::string& name) {
  const formats::StoredTensor* stored = file.find(name);
  return stored ? torchx::stored_tensor(file, *stored) : at::Tensor();
}

struct Apart {
  double max, largest;
};
Apart apart(const at::Tensor& a, const at::Tensor& b) {
  return {(a - b).abs().max().item<double>(), b.abs().max().item<double>()};
}

}  // namespace

Trace trace_model(std::span<const std::shared_ptr<nn::GptModel>> chunks, const at::Tensor& tokens) {
  const c10::InferenceMode inference;
  const nn::ModelContext& context = chunks.front()->context();
  std::map<std::pair<int, std::string>, at::Tensor> seen;
  nn::ForwardPass pass;
  pass.observe = [&](int layer, std::string_view module, const at::Tensor& output) {
    seen[{layer, std::string(module)}] = output;
  };
  const at::Tensor logits = infer::forward_logits(chunks, tokens.to(context.device), pass, /*last_only=*/false);
  const int64_t positions = tokens.size(1), sequences = tokens.size(0);
  const parallel::Group& pp = context.mesh->pp;
  const topology::Pipeline pipeline(bridge::pipeline_options(context.arch, context.mesh->sizes()));
  Trace trace;
  trace.logits =
      on_host(from_stage(logits, {positions, sequences, context.arch.embedding.vocab_size}, pp.size() - 1, context)
                  .transpose(0, 1));
  for (int layer = 0; layer < static_cast<int>(context.arch.num_layers()); ++layer) {
    const models::LayerSpec& spec = context.arch.layers[static_cast<size_t>(layer)];
    const int stage = pipeline.place_of(layer).chunk.pp_rank;
    for (const std::string_view name : kOrder) {
      if (name == "self_attention" && spec.mixer == models::Mixer::kNone) continue;
      if (name == "mlp" && spec.feed_forward == models::FeedForward::kNone) continue;
      const std::pair<int, std::string> key(layer, name);
      const auto own = seen.find(key);
      trace.modules[key] = on_host(from_stage(own == seen.end() ? at::Tensor() : own->second,
                                              {positions, sequences, context.arch.hidden_size}, stage, context)
                                       .transpose(0, 1));
    }
  }
  return trace;
}

Reference read_reference(const Path& path) {
  const formats::SafetensorsFile file(path);
  Reference reference;
  reference.input_ids = read(file, "input_ids");
  VIADUCT_USER_CHECK(
      reference.input_ids.defined() && reference.input_ids.scalar_type() == at::kLong &&
          reference.input_ids.dim() == 2,
      "{} has no input_ids [sequences, positions] of type I64: tools/reference_logits makes such files",
      path.string());
  const at::Tensor logits = read(file, "logits");
  VIADUCT_USER_CHECK(logits.defined() && logits.dim() == 3 && logits.size(0) == reference.input_ids.size(0) &&
                         logits.size(1) == reference.input_ids.size(1),
                     "{} has no logits [sequences, positions, vocabulary] for its input_ids", path.string());
  reference.trace.logits = on_host(logits);
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"attention_", "self_attention"}, {"mlp_", "mlp"}, {"hidden_", "layer"}};
  for (const auto& [prefix, module] : kNames)
    for (const formats::StoredTensor& stored : file.tensors()) {
      const std::string& name = stored.name;
      if (!name.starts_with(prefix) || name.find_first_not_of("0123456789", prefix.size()) != std::string::npos)
        continue;
      VIADUCT_USER_CHECK(name.size() > prefix.size() && name.size() < prefix.size() + 7, "{} has a tensor {}",
                         path.string(), name);
      reference.trace.modules[{std::stoi(name.substr(prefix.size())), std::string(module)}] =
          on_host(read(file, name));
    }
  return reference;
}

TraceDifference compare_traces(const Trace& a, const Trace& b, double tolerance) {
  VIADUCT_USER_CHECK(a.logits.sizes() == b.logits.sizes(), "logits of the shape {} and of the shape {}",
                     torchx::shape_of(a.logits), torchx::shape_of(b.logits));
  TraceDifference result;
  const Apart logits = apart(a.logits, b.logits);
  result.max = logits.max;
  result.largest = logits.largest;
  result.mean = (a.logits - b.logits).abs().mean().item<double>();
  result.cosine =
      at::cosine_similarity(a.logits.to(at::kDouble), b.logits.to(at::kDouble), -1).min().item<double>();
  result.finite = a.logits.isfinite().all().item<bool>() && b.logits.isfinite().all().item<bool>();
  int layers = 0;
  for (const auto& [key, tensor] : b.modules) layers = std::max(layers, key.first + 1);
  for (int layer = 0; layer < layers && !result.first; ++layer)
    for (const std::string_view name : kOrder) {
      const std::pair<int, std::string> key(layer, name);
      const auto left = a.modules.find(key), right = b.modules.find(key);
      if (left == a.modules.end() || right == b.modules.end()) continue;
      VIADUCT_USER_CHECK(left->second.sizes() == right->second.sizes(), "{} of layer {}: shapes {} and {}", name,
                         layer, torchx::shape_of(left->second), torchx::shape_of(right->second));
      const Apart module = apart(left->second, right->second);
      if (module.max <= tolerance * module.largest) continue;
      result.first = {layer, std::string(name), module.max, module.largest};
      break;
    }
  return result;
}

}  // namespace viaduct::cli
