// A model family and an attention of one's own, from outside of viaduct: a Llama in which every second layer sees
// only the last few positions, and whose attention counts how often it runs and dampens what it adds.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/live.h"

using namespace viaduct;

namespace {

// config.json: {"architectures": ["DampedLlamaForCausalLM"], ...}; the weights have Llama's names.
models::ArchSpec read_damped_llama(const models::HfConfig& config) {
  models::ArchSpec arch = models::family_named("llama").read_config(config);
  for (size_t i = 1; i < arch.layers.size(); i += 2)
    arch.layers[i].attention.window = config.integer_or("damped_window", 4);
  return arch;
}

void register_damped_llama() {
  models::Family family = models::family_named("llama");
  family.name = "damped_llama";
  family.title = "Damped Llama";
  family.architecture = "DampedLlamaForCausalLM";
  family.model_type = "damped_llama";
  family.read_config = read_damped_llama;
  family.recognises = [](const config::ModelConfig&) { return false; };  // config.json says it
  family.claims = nullptr;
  models::register_family(std::move(family));
}

// Parameters, tensor parallelism and the cache are SelfAttention's.
class DampedAttention : public nn::SelfAttention {
 public:
  static constexpr double kShare = 0.5;
  static inline int runs = 0;
  using SelfAttention::SelfAttention;
  at::Tensor forward(const at::Tensor& hidden, nn::ForwardPass& pass) const override {
    ++runs;
    return SelfAttention::forward(hidden, pass) * kShare;
  }
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw UserError("usage: own_mixer HF_FOLDER");
  register_damped_llama();
  nn::register_mixer(models::Mixer::kAttention,
                     [](const models::LayerSpec& spec, int layer, nn::ContextPtr context) {
                       return std::make_shared<DampedAttention>(spec, layer, std::move(context));
                     });
  const auto source = bridge::open_checkpoint(argv[1]);
  const auto mesh = std::make_shared<const parallel::Mesh>();
  const auto context =
      nn::make_context(source->arch(), bridge::provider_in_layout(*source, {}), mesh, at::kFloat, at::kCPU);
  const auto model = std::make_shared<nn::GptModel>(context);
  nn::load_weights(*source, {model}, *mesh);
  const at::NoGradGuard no_grad;
  nn::ForwardPass pass;
  const at::Tensor tokens = at::arange(1, 9, at::kLong).unsqueeze(0);
  const at::Tensor logits = nn::gather_logits(model->forward(tokens, {}, pass), *context);
  fmt::print("{}: {} layers, attention ran {} times; behind 1 to 8 comes token {}\n", context->arch.family,
             context->arch.num_layers(), DampedAttention::runs, logits[-1][0].argmax().item<int64_t>());
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 2;
}
