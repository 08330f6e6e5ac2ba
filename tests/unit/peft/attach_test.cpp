// Live adapters against those of Megatron Bridge: names and shapes of its modules, the values of its checkpoints
// and its export of them.
#include "viaduct/peft/attach.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "tests/model/golden_dir.h"
#include "tests/model/loaded_model.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/peft/export.h"
#include "viaduct/peft/low_rank_adapter.h"
#include "viaduct/peft/targets.h"
#include "viaduct/torchx/stored_tensor.h"

namespace viaduct::peft {
namespace {

PeftOptions options_of(const std::string& run) {
  PeftOptions options;
  options.dim = 8;
  options.alpha = 16;
  options.target_modules = {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"};
  if (!run.starts_with("canonical")) return options;
  options.alpha = 24;
  options.kind = adapters::AdapterKind::kCanonicalLora;
  options.target_modules = {"linear_q",      "linear_k",        "linear_v",  "linear_proj",
                            "linear_fc1_up", "linear_fc1_gate", "linear_fc2"};
  return options;
}

struct Adapted {
  Path run;
  test::LoadedModel model;
  PeftOptions options;

  explicit Adapted(const std::string& name)
      : run(test::golden_dir() / "adapters" / name),
        model(test::golden_dir() / "runs/_models" / name.substr(name.find("lora_") + 5) / "hf", at::kBFloat16,
              test::device()),
        options(options_of(name)) {}

  AttachReport attach() { return attach_adapters({model.model}, model.context, options, 1234); }
  std::vector<AdapterTensor> tensors() const { return adapter_tensors({model.model}, *model.context); }
  at::Tensor logits() const {
    const at::NoGradGuard no_grad;
    nn::ForwardPass pass;
    const at::Tensor tokens = at::arange(12, at::TensorOptions(at::kLong).device(test::device())).view({2, 6}) + 3;
    return model.model->forward(tokens, {}, pass);
  }
};

class LiveAdapter : public testing::TestWithParam<std::string> {};

TEST_P(LiveAdapter, HasUpstreamsNamesAndShapes) {
  Adapted adapted(GetParam());
  adapted.attach();
  std::map<std::string, std::vector<int64_t>> ours, theirs;
  for (const AdapterTensor& tensor : adapted.tensors()) ours[tensor.name] = tensor.tensor.sizes().vec();
  const Json oracle = Json::parse(read_text_file(adapted.run / "oracle.json"), "oracle.json");
  for (const auto& [name, parameter] : oracle.at("result").at("adapter_parameters").members())
    for (const Json& size : parameter.items().at(0).items()) theirs[name].push_back(size.as_int());
  EXPECT_EQ(ours, theirs);
  for (const auto& item : adapted.model.model->named_parameters())
    EXPECT_EQ(item.value().requires_grad(), ours.contains(item.key())) << item.key();
}

TEST_P(LiveAdapter, ExportsUpstreamsValuesAsUpstreamDoes) {
  Adapted adapted(GetParam());
  adapted.attach();
  const auto reader = formats::TorchDistReader::open(adapted.run / "megatron/iter_0000000");
  const auto stored = torchx::stored_tensors(*reader);
  const models::LayerKeys layers = models::layer_keys_for(adapted.model.context->arch);
  for (const AdapterTensor& tensor : adapted.tensors())
    for (const models::StateKey& key : state_keys(tensor.parameter, adapted.model.context->arch, layers)) {
      ASSERT_TRUE(stored.contains(key.key)) << key.key;
      at::Tensor from = stored.at(key.key);
      for (int axis = 0; axis < key.prefix.rank(); ++axis) from = from.select(0, key.prefix[axis]);
      tensor.tensor.narrow(0, key.begin, from.size(0)).copy_(from);
    }
  const Path folder = std::filesystem::temp_directory_path() / ("viaduct-live-adapter-" + GetParam());
  std::filesystem::remove_all(folder);
  save_peft_folder({adapted.model.model}, *adapted.model.context, adapted.options, "base", folder);
  const auto ours = torchx::stored_tensors(formats::SafetensorsFile(folder / "adapter_model.safetensors"));
  const auto theirs =
      torchx::stored_tensors(formats::SafetensorsFile(adapted.run / "hf_adapter/adapter_model.safetensors"));
  EXPECT_EQ(ours.size(), theirs.size());
  for (const auto& [name, tensor] : theirs) {
    ASSERT_TRUE(ours.contains(name)) << name;
    EXPECT_TRUE(at::equal(ours.at(name), tensor)) << name;
  }
  EXPECT_EQ(Json::parse(read_text_file(folder / "adapter_config.json"), "ours").dump(2),
            Json::parse(read_text_file(adapted.run / "hf_adapter/adapter_config.json"), "theirs").dump(2));
  std::filesystem::remove_all(folder);
}

TEST_P(LiveAdapter, SwitchesOffAndOn) {
  Adapted adapted(GetParam());
  const at::Tensor base = adapted.logits();
  adapted.options.lora_B_init_method = InitMethod::kNormal;
  const AttachReport report = adapted.attach();
  EXPECT_GT(report.parameters, 0);
  const at::Tensor with = adapted.logits();
  EXPECT_FALSE(at::equal(base, with));
  {
    const AdaptersOff off(nn::ModelChunks{adapted.model.model});
    EXPECT_TRUE(at::equal(base, adapted.logits()));
  }
  EXPECT_TRUE(at::equal(with, adapted.logits()));
}

INSTANTIATE_TEST_SUITE_P(Runs, LiveAdapter,
                         testing::Values("lora_llama", "lora_qwen3_moe", "canonical_lora_llama",
                                         "canonical_lora_qwen3_moe"),
                         [](const auto& info) { return info.param; });

// Of what goes in, or of what comes out: then each element is nothing, or what it is without dropout divided by the
// share that is kept.
TEST(Dropout, IsBeforeOrAfterTheMatricesAndNotInEvaluation) {
  const Adapted adapted("lora_llama");
  for (const DropoutPosition position : {DropoutPosition::kPre, DropoutPosition::kPost}) {
    PeftOptions options = adapted.options;
    options.dropout = 0.5;
    options.dropout_position = position;
    LowRankAdapter adapter({.in = 16, .out = 8, .rank = 4, .linear = layout::Split::along(0)}, options,
                           adapted.model.context);
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : adapter.parameters()) parameter.normal_();
    const at::Tensor x = at::randn({32, 2, 16}, adapter.parameters().front().options().requires_grad(false));
    adapter.eval();
    const at::Tensor whole = adapter.forward(x, {});
    EXPECT_TRUE(at::equal(adapter.forward(x, {}), whole));
    adapter.train();
    const at::Tensor dropped = adapter.forward(x, {});
    const int64_t kept = at::eq(dropped, whole * 2).sum().item<int64_t>();
    const int64_t gone = at::eq(dropped, 0).sum().item<int64_t>();
    if (position == DropoutPosition::kPost) {
      EXPECT_EQ(kept + gone, whole.numel());
      EXPECT_GT(kept, whole.numel() / 4);
      EXPECT_GT(gone, whole.numel() / 4);
    } else {
      EXPECT_LT(kept + gone, whole.numel() / 10);
    }
  }
}

TEST(Targets, AreLastWordsOrPathsWithWildcards) {
  const std::string module = "decoder.layers.10.self_attention.linear_qkv";
  for (const char* pattern :
       {"linear_qkv", "*.linear_qkv", "*.layers.10.*", "*.layers.1[0-3].*.linear_qkv", module.c_str()})
    EXPECT_TRUE(names_module(pattern, module)) << pattern;
  for (const char* pattern : {"qkv", "linear", "*.layers.1.*", "*.layers.0.*.linear_qkv", "decoder.layers"})
    EXPECT_FALSE(names_module(pattern, module)) << pattern;
}

TEST(Targets, MayBeAllLinearLayersButSome) {
  Adapted adapted("lora_llama");
  adapted.options.target_modules = {};
  adapted.options.exclude_modules = {"linear_qkv", "*.layers.0.*"};
  adapted.attach();
  std::set<std::string> layers;
  for (const AdapterTensor& tensor : adapted.tensors())
    layers.insert(tensor.name.substr(0, tensor.name.find(".adapter.")));
  std::set<std::string> expected;
  for (size_t i = 1; i < adapted.model.context->arch.layers.size(); ++i)
    for (const char* linear : {"self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"})
      expected.insert(fmt::format("decoder.layers.{}.{}", i, linear));
  EXPECT_EQ(layers, expected);
}

TEST(Targets, ThatNothingHasAreErrors) {
  Adapted adapted("lora_llama");
  adapted.options.target_modules = {"linear_qkv", "linear_qvk"};
  EXPECT_THROW(adapted.attach(), UserError);
  adapted.options.target_modules = {"*.layers.99.*"};
  EXPECT_THROW(adapted.attach(), UserError);
}

}  // namespace
}  // namespace viaduct::peft
