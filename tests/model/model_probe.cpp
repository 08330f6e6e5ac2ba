// Runs models and writes what they compute, for model_test.py and others. Each line of standard input is a job, a
// JSON object:
//
//   model      a checkpoint: a Hugging Face folder, or a Megatron one
//   inputs     a safetensors file with input_ids [b, s] int64
//   out        the safetensors file to write: logits [b, s, vocabulary], hidden_i (what leaves layer i); float32
//   dtype      "float32" (default), "bfloat16", "float64"
//   device     "cpu" (default), "cuda"
//   modules    true: also attention_i and mlp_i, as the residual gets them
//   gradients  true: also loss (mean cross entropy of the next token) and gradient.NAME for every Hugging Face
//   tensor mutate     "eps", "window", "gelu", "router", "theta", "cap", "scale": the model is built from a wrong
//   description
//
// Each job answers with a line {"ok": true} or {"error": "..."}.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <fstream>
#include <iostream>

#include "tests/model/loaded_model.h"
#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/nn/cross_entropy.h"
#include "viaduct/nn/embedding.h"
#include "viaduct/torchx/stored_tensor.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct {
namespace {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

struct Job {
  Path model, inputs, out;
  c10::ScalarType dtype = at::kFloat;
  c10::Device device = at::kCPU;
  bool modules = false, gradients = false;
  std::string mutation;
};

Job read_job(const std::string& line) {
  const Json json = Json::parse(line, "job");
  const auto text = [&](const char* key, const char* fallback) {
    return json.contains(key) ? json.at(key).as_string() : std::string(fallback);
  };
  const auto flag = [&](const char* key) { return json.contains(key) && json.at(key).as_bool(); };
  Job job{json.at("model").as_string(), json.at("inputs").as_string(), json.at("out").as_string()};
  const std::string dtype = text("dtype", "float32");
  VIADUCT_USER_CHECK(dtype == "float32" || dtype == "bfloat16" || dtype == "float64", "dtype {}", dtype);
  job.dtype = dtype == "float32" ? at::kFloat : dtype == "float64" ? at::kDouble : at::kBFloat16;
  job.device = c10::Device(text("device", "cpu"));
  job.modules = flag("modules");
  job.gradients = flag("gradients");
  job.mutation = text("mutate", "");
  return job;
}

at::Tensor read_ids(const Path& path) {
  const formats::SafetensorsFile file(path);
  const formats::StoredTensor* stored = file.find("input_ids");
  VIADUCT_USER_CHECK(stored && stored->dtype == DType::kI64, "{} has no int64 input_ids", path.string());
  return torchx::stored_tensor(file, *stored);
}

void write(const Path& path, const Named& tensors) {
  std::vector<std::pair<formats::StoredTensor, std::vector<std::byte>>> stored;
  for (const auto& [name, value] : tensors) {
    const bool wide = value.scalar_type() == at::kDouble;
    const at::Tensor plain = value.detach().to(at::kCPU, wide ? at::kDouble : at::kFloat).contiguous();
    const auto bytes = torchx::bytes_of(plain);
    formats::StoredTensor entry;
    entry.name = name;
    entry.dtype = torchx::dtype_of(plain.scalar_type());
    entry.shape = torchx::shape_of(plain);
    stored.emplace_back(std::move(entry), std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  std::ofstream out(path, std::ios::binary);
  out << formats::safetensors_file(stored);
  VIADUCT_USER_CHECK(out.good(), "cannot write {}", path.string());
}

// Wrong on purpose: what each of these changes must be seen in the logits.
void mutate(const std::string& mutation, models::ArchSpec& arch) {
  using models::Activation;
  if (mutation == "eps") arch.norm.eps *= 10;
  if (mutation == "theta") arch.rope.theta *= 1.01;
  if (mutation == "cap" && arch.final_logit_softcap) *arch.final_logit_softcap *= 1.01;
  for (models::LayerSpec& layer : arch.layers) {
    models::AttentionSpec& attention = layer.attention;
    if (mutation == "window" && attention.window) ++*attention.window;
    if (mutation == "cap" && attention.logit_softcap) *attention.logit_softcap *= 1.01;
    if (mutation == "scale" && attention.query_scale_dim) *attention.query_scale_dim *= 1.01;
    if (mutation == "gelu" && layer.mlp.activation == Activation::kGeluTanh)
      layer.mlp.activation = Activation::kGelu;
    if (!layer.moe) continue;
    if (mutation == "scale" && layer.moe->scaling_factor) *layer.moe->scaling_factor *= 1.01;
    // Probabilities before the choice instead of after it, or the other way round; a sigmoid's are left as they
    // are.
    if (mutation == "router" && layer.moe->score == models::RouterScore::kSigmoid)
      layer.moe->normalize_top_k = !layer.moe->normalize_top_k;
    else if (mutation == "router")
      layer.moe->softmax_before_top_k = !layer.moe->softmax_before_top_k;
  }
}

at::Tensor box_of(at::Tensor tensor, const layout::Box& box) {
  for (int axis = 0; axis < box.rank(); ++axis) {
    const int64_t begin = box.offset[axis], end = begin + (box.size[axis] - 1) * box.stride[axis] + 1;
    tensor = tensor.slice(axis, begin, end, box.stride[axis]);
  }
  return tensor;
}

// The axes of a piece's source in the order of its target.
at::Tensor as_target(const at::Tensor& source, const layout::Piece& piece) {
  std::vector<int64_t> order;
  for (int axis = 0; axis < piece.to.rank(); ++axis)
    if (piece.axes[axis] >= 0) order.push_back(piece.axes[axis]);
  for (int64_t axis = 0; axis < source.dim(); ++axis)
    if (std::ranges::find(order, axis) == order.end()) order.push_back(axis);
  return source.permute(order).reshape(torchx::sizes_of(piece.to.size));
}

// Gradients under the names, and in the pieces, that the weights have in Hugging Face's form.
Named hf_gradients(const nn::GptModel& model, const bridge::WeightGraph& graph) {
  std::map<std::string, at::Tensor> gradients;
  for (const auto& item : model.named_parameters())
    gradients[item.key()] = item.value().grad().defined() ? item.value().grad() : at::zeros_like(item.value());
  if (graph.arch.embedding.output_is_copy) {  // one tensor there
    at::Tensor& embedding = gradients.at("embedding.word_embeddings.weight");
    embedding = embedding + gradients.at("output_layer.weight");
    gradients.at("output_layer.weight") = embedding;
  }
  Named result;
  for (size_t i = 0; i < graph.hf_tensors.size(); ++i) {
    at::Tensor tensor = at::zeros(torchx::sizes_of(graph.hf_tensors[i].shape), model.context().options());
    bool whole = true;
    for (const layout::Piece& piece : graph.to_hf(i)) {
      if (piece.is_fill() || piece.is_drop()) continue;
      const auto found = gradients.find(graph.parameters[static_cast<size_t>(piece.source)].name);
      // What the model lacks (multi-token prediction), or does not train (expert bias), has none.
      whole &= found != gradients.end();
      if (whole) box_of(tensor, piece.to).copy_(as_target(box_of(found->second, piece.from), piece));
    }
    if (whole) result.emplace_back("gradient." + graph.hf_tensors[i].name, tensor);
  }
  return result;
}

void run(const Job& job) {
  const test::LoadedModel loaded(job.model, job.dtype, job.device,
                                 [&](models::ArchSpec& arch) { mutate(job.mutation, arch); });
  const nn::ContextPtr& context = loaded.context;
  const auto& model = loaded.model;

  const at::Tensor ids = read_ids(job.inputs).to(job.device);
  Named results;
  nn::ForwardPass pass;
  pass.observe = [&](int layer, std::string_view module, const at::Tensor& output) {
    const at::Tensor rows = output.detach().transpose(0, 1);
    if (module == "layer") results.emplace_back(fmt::format("hidden_{}", layer), rows);
    if (module == "self_attention" && job.modules) results.emplace_back(fmt::format("attention_{}", layer), rows);
    if (module == "mlp" && job.modules) results.emplace_back(fmt::format("mlp_{}", layer), rows);
  };
  const at::AutoGradMode with_gradients(job.gradients);
  const at::Tensor logits = model->forward(ids, {}, pass);
  results.emplace_back("logits", nn::gather_logits(logits.detach(), *context).transpose(0, 1));
  if (job.gradients) {
    const int64_t predicted = ids.size(1) - 1;
    const at::Tensor labels = ids.narrow(1, 1, predicted).transpose(0, 1).contiguous();
    const at::Tensor loss =
        nn::vocab_parallel_cross_entropy(logits.narrow(0, 0, predicted), labels, *context).mean();
    loss.backward();
    results.emplace_back("loss", loss);
    for (auto& gradient : hf_gradients(*model, loaded.checkpoint->graph())) results.push_back(std::move(gradient));
  }
  write(job.out, results);
}

}  // namespace
}  // namespace viaduct

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    viaduct::Json answer = viaduct::Json::object();
    try {
      viaduct::run(viaduct::read_job(line));
      answer.set("ok", true);
    } catch (const std::exception& error) {  // the next job runs all the same; the caller sees this one's error
      answer.set("error", error.what());
    }
    std::cout << answer.dump() << std::endl;
  }
}
