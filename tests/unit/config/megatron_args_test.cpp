#include "viaduct/config/megatron_args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "viaduct/formats/torch_file.h"

namespace viaduct::config {
namespace {

using formats::PickleValue;
using testing::HasSubstr;

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

PickleValue namespace_of(std::vector<PickleValue::Member> members) {
  return PickleValue::object("argparse.Namespace", {}, PickleValue::dict(std::move(members)), {}, {});
}

/// The args in a file that Megatron-LM wrote (tests/golden/form_fixtures.py).
PickleValue run_args(const std::string& rank_folder) {
  static constexpr std::string_view kWanted[] = {"args"};
  const Path file = Path(VIADUCT_GOLDEN_DIR) / "forms" / rank_folder / "model_optim_rng.pt";
  return formats::read_torch_parts(file, std::nullopt, kWanted).values.at("args");
}

const std::string kLlama = "legacy_llama_tied_tp2_pp2/megatron/iter_0000003/mp_rank_00_000";
const std::string kMoe = "legacy_qwen3_moe_pp2_ep2/megatron/iter_0000003/mp_rank_00_000_000";

// The least that args must say.
std::vector<PickleValue::Member> minimal() {
  return {{"num_layers", 2}, {"hidden_size", 64}, {"num_attention_heads", 4}, {"padded_vocab_size", 128}};
}

PickleValue minimal_with(const std::string& name, PickleValue value) {
  PickleValue members = PickleValue::dict(minimal());
  members.set_member(name, std::move(value));
  return namespace_of(members.members());
}

TEST(MegatronArgs, OfARealRun) {
  const ModelConfig model = model_config_from_args(run_args(kLlama), "file");
  EXPECT_EQ(model.target, kGptProvider);
  EXPECT_EQ(model.num_layers, 4);
  EXPECT_EQ(model.hidden_size, 32);
  EXPECT_EQ(model.ffn_hidden_size, 80);
  EXPECT_EQ(model.num_query_groups, 2);
  EXPECT_EQ(model.kv_channels, 8);
  EXPECT_EQ(model.seq_length, 64);  // max_position_embeddings, not the run's sequences
  EXPECT_EQ(model.vocab_size, 128);
  EXPECT_EQ(model.activation_name(), "silu");
  EXPECT_TRUE(model.gated_linear_unit);
  EXPECT_FALSE(model.add_bias_linear);
  EXPECT_TRUE(model.share_embeddings_and_output_weights);
  EXPECT_EQ(model.normalization, "RMSNorm");
  EXPECT_EQ(model.layernorm_epsilon, 1e-5);
  EXPECT_EQ(model.position_embedding_type, "rope");
  EXPECT_FALSE(model.rope_scaling);
  EXPECT_TRUE(model.bf16);
  EXPECT_EQ(model.params_dtype, DType::kBF16);
  EXPECT_EQ(model.tensor_model_parallel_size, 2);
  EXPECT_EQ(model.pipeline_model_parallel_size, 2);
  EXPECT_EQ(model.attention_backend.name, "auto");
  EXPECT_FALSE(model.persist_layer_norm);
}

TEST(MegatronArgs, OfARealRunWithExperts) {
  const ModelConfig model = model_config_from_args(run_args(kMoe), "file");
  EXPECT_EQ(model.num_moe_experts, 4);
  EXPECT_EQ(model.moe_ffn_hidden_size, 24);
  EXPECT_EQ(model.moe_router_topk, 2);
  EXPECT_TRUE(model.qk_layernorm);
  EXPECT_FALSE(model.share_embeddings_and_output_weights);
  EXPECT_EQ(model.vocab_size, 106);
  EXPECT_EQ(model.expert_model_parallel_size, 2);
}

TEST(MegatronArgs, DefaultsAreMegatronsOwn) {
  const ModelConfig model = model_config_from_args(namespace_of(minimal()), "file");
  EXPECT_EQ(model.activation_name(), "gelu");
  EXPECT_FALSE(model.gated_linear_unit);
  EXPECT_TRUE(model.share_embeddings_and_output_weights);
  EXPECT_TRUE(model.add_bias_linear);
  EXPECT_EQ(model.num_query_groups, std::nullopt);
  EXPECT_EQ(model.params_dtype, DType::kF32);
}

TEST(MegatronArgs, OlderNames) {
  EXPECT_TRUE(model_config_from_args(minimal_with("apply_layernorm_1p", true), "").layernorm_zero_centered_gamma);
  EXPECT_EQ(model_config_from_args(minimal_with("norm_epsilon", 1e-6), "").layernorm_epsilon, 1e-6);
  EXPECT_EQ(
      model_config_from_args(minimal_with("use_rotary_position_embeddings", true), "").position_embedding_type,
      "rope");
  EXPECT_EQ(model_config_from_args(minimal_with("squared_relu", true), "").activation_name(), "squared_relu");
  EXPECT_THAT(model_config_from_args(minimal_with("multi_latent_attention", true), "").target,
              HasSubstr("MLAModelProvider"));
  EXPECT_THAT(model_config_from_args(minimal_with("is_hybrid_model", true), "").target,
              HasSubstr("HybridModelProvider"));
}

// A NullTokenizer's argument counts the tokens without the end of a document; others do not say how many there are.
TEST(MegatronArgs, VocabularyOfATokenizer) {
  const auto vocab = [](const char* tokenizer, int64_t tokens) {
    std::vector<PickleValue::Member> members = minimal();
    members.emplace_back("tokenizer_type", tokenizer);
    members.emplace_back("vocab_size", tokens);
    return model_config_from_args(namespace_of(members), "").vocab_size;
  };
  EXPECT_EQ(vocab("NullTokenizer", 99), 100);
  EXPECT_EQ(vocab("NullTokenizer", 127), 128);
  EXPECT_EQ(vocab("NullTokenizer", 128), 128);
  EXPECT_EQ(vocab("HuggingFaceTokenizer", 99), 128);
}

TEST(MegatronArgs, ErrorsNameTheArgument) {
  const auto says = [](const PickleValue& args) {
    return error_of([&] { model_config_from_args(args, "common.pt"); });
  };
  EXPECT_THAT(says(PickleValue::dict()), HasSubstr("common.pt: args are"));
  EXPECT_THAT(says(namespace_of({{"num_layers", 2}})), HasSubstr("'hidden_size' is missing"));
  EXPECT_THAT(says(minimal_with("num_layers", "many")), HasSubstr("args.num_layers: expected an integer"));
  EXPECT_THAT(says(minimal_with("swiglu", 1.5)), HasSubstr("args.swiglu: expected true or false"));
  EXPECT_THAT(says(minimal_with("ffn_hidden_size", "wide")), HasSubstr("args.ffn_hidden_size"));
  EXPECT_THAT(says(minimal_with("use_legacy_models", true)), HasSubstr("before Megatron Core"));
}

ModelConfig llama_like() {
  ModelConfig model;
  model.num_layers = 4;
  model.hidden_size = 64;
  model.num_attention_heads = 4;
  model.num_query_groups = 2;
  model.kv_channels = 16;
  model.ffn_hidden_size = 160;
  model.vocab_size = 250;
  model.seq_length = 512;
  model.rope_scaling = true;
  model.rope_scaling_factor = 32.0;
  model.rotary_base = Number(500000.0);
  model.layernorm_epsilon = 1e-6;
  model.tensor_model_parallel_size = 2;
  model.finalize();
  return model;
}

TEST(MegatronArgs, WrittenAndReadBack) {
  const ModelConfig model = llama_like();
  const PickleValue args = megatron_args(model, {.save_path = "/out", .iteration = 5, .padded_vocab_size = 256});
  ASSERT_TRUE(is_namespace(args));
  EXPECT_EQ(args.at("iteration").as_int(), 5);
  EXPECT_TRUE(args.at("no_save_optim").as_bool());
  EXPECT_TRUE(args.at("swiglu").as_bool());
  EXPECT_EQ(args.at("padded_vocab_size").as_int(), 256);
  EXPECT_EQ(args.at("params_dtype").text(), "torch.bfloat16");
  // Through the file, as Megatron-LM reads it.
  const std::string file = formats::write_torch_file(PickleValue::dict({{"args", args}}), "common");
  const PickleValue again = formats::read_torch_object(std::as_bytes(std::span(file)), "common.pt").at("args");
  const ModelConfig back = model_config_from_args(again, "common.pt");
  for (const char* name : {"num_layers", "hidden_size", "num_query_groups", "kv_channels", "ffn_hidden_size",
                           "seq_length", "rope_scaling", "rope_scaling_factor", "rotary_base", "layernorm_epsilon",
                           "activation_func", "share_embeddings_and_output_weights", "tensor_model_parallel_size",
                           "params_dtype", "attention_backend", "vocab_size", "normalization", "add_bias_linear"})
    EXPECT_TRUE(get_path(back, name, "model") == get_path(model, name, "model")) << name;
}

// Both ways in which releases count a NullTokenizer's tokens give the stored rows.
TEST(MegatronArgs, TheNullTokenizersRowsAreTheStoredOnes) {
  for (const auto& [tokens, rows] : std::vector<std::pair<int64_t, int64_t>>{
           {250, 250}, {250, 256}, {105, 106}, {101, 101}, {32000, 32000}, {128256, 128256}, {1, 1}}) {
    ModelConfig model = llama_like();
    model.vocab_size = tokens;
    const PickleValue args = megatron_args(model, {.padded_vocab_size = rows});
    const int64_t divisor = args.at("make_vocab_size_divisible_by").as_int(),
                  count = args.at("vocab_size").as_int();
    const auto padded = [&](int64_t n) { return (n + divisor - 1) / divisor * divisor; };
    EXPECT_EQ(padded(count), rows) << tokens << " in " << rows;
    // An older release counts one more; only where no count serves both does it add a multiple of the divisor.
    if (divisor > 1 && rows > count) {
      EXPECT_EQ(padded(count + 1), rows) << tokens << " in " << rows;
    }
  }
}

// A run's own arguments stay, save for the layout; what Megatron-LM's reader would refuse goes.
TEST(MegatronArgs, KeepTheRunsOwn) {
  PickleValue members = run_args(kLlama).state();
  members.set_member("made_up", PickleValue::object("a.module.Thing", {}, {}, {}, {}));
  members.set_member("big", PickleValue::big_int(std::string(16, '\x01')));
  const PickleValue base = namespace_of(members.members());
  ModelConfig model = model_config_from_args(base, "base");
  model.tensor_model_parallel_size = 4;
  const PickleValue args = megatron_args(model, {.iteration = 9, .padded_vocab_size = 128}, &base);
  EXPECT_EQ(args.at("lr").as_double(), 3e-3);
  EXPECT_EQ(args.at("tensor_model_parallel_size").as_int(), 4);
  EXPECT_EQ(args.at("iteration").as_int(), 9);
  EXPECT_EQ(args.at("vocab_size").as_int(), 127);
  EXPECT_TRUE(args.at("no_save_optim").as_bool());
  EXPECT_EQ(args.find("made_up"), nullptr);
  EXPECT_EQ(args.find("big"), nullptr);
  EXPECT_FALSE(formats::write_torch_file(PickleValue::dict({{"args", args}}), "common").empty());
}

}  // namespace
}  // namespace viaduct::config
