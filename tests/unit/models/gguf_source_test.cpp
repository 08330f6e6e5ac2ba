#include "viaduct/models/gguf_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numbers>

#include "tests/unit/formats/gguf_builder.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/hash.h"
#include "viaduct/models/gguf_tokenizer.h"

namespace viaduct::models {
namespace {

using formats::testing::GgufBuilder;
using formats::testing::TemporaryFile;
using ::testing::HasSubstr;

// Files written by the gguf package, with what transformers reads out of them (tests/golden/gguf_fixtures.py).
const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/gguf";

Json read_json(const Path& path) { return Json::parse(read_text_file(path), path.string()); }

// Element by element, with nothing assumed about how the pieces are cut.
std::vector<float> evaluate(const layout::Expr& expr,
                            const std::function<std::vector<float>(const std::string&)>& input) {
  std::vector<float> result(static_cast<size_t>(num_elements(expr.shape())));
  const Shape to_strides = row_major_strides(expr.shape());
  for (const layout::Piece& piece : expr.pieces()) {
    const auto& source = expr.inputs().at(static_cast<size_t>(piece.source));
    const std::vector<float> values = input(source.name);
    const Shape from_strides = row_major_strides(source.shape);
    const int rank = piece.to.rank();
    for (int64_t i = 0; i < num_elements(piece.to.size); ++i) {
      int64_t from = 0, to = 0, rest = i;
      for (int a = 0; a < source.shape.rank(); ++a) from += piece.from.offset[a] * from_strides[a];
      for (int a = rank - 1; a >= 0; --a) {
        const int64_t index = rest % piece.to.size[a];
        rest /= piece.to.size[a];
        to += (piece.to.offset[a] + index * piece.to.stride[a]) * to_strides[a];
        const int s = piece.axes[a];
        if (s >= 0) from += index * piece.from.stride[s] * from_strides[s];
      }
      result.at(static_cast<size_t>(to)) = values.at(static_cast<size_t>(from));
    }
  }
  return result;
}

TEST(GgufSource, tensors_are_transformers_bits) {
  const auto file = formats::open_gguf(kFixtures / "llama.gguf");
  const GgufModel model = read_gguf_model(*file);
  const Json expected = read_json(kFixtures / "llama.expected.json").at("tensors");
  ASSERT_EQ(model.tensors.size(), expected.members().size());
  for (const auto& [name, value] : expected.members()) {
    const auto it = model.tensors.find(name);
    ASSERT_NE(it, model.tensors.end()) << name;
    const layout::Expr& expr = it->second;
    std::vector<Json> shape(expr.shape().begin(), expr.shape().end());
    EXPECT_EQ(Json::array(shape), value.at("shape")) << name;
    const std::vector<float> values = evaluate(expr, [&](const std::string& input) {
      const formats::StoredTensor& tensor = *file->find(input);
      std::vector<float> floats(static_cast<size_t>(num_elements(tensor.shape)));
      const std::vector<std::byte> stored = read_tensor(*file, tensor);
      convert(tensor.dtype, stored.data(), DType::kF32, reinterpret_cast<std::byte*>(floats.data()),
              static_cast<int64_t>(floats.size()));
      return floats;
    });
    EXPECT_EQ(crc32(std::as_bytes(std::span(values))), value.at("crc32").as_int()) << name;
  }
  EXPECT_TRUE(model.unused.empty());
}

TEST(GgufSource, rotary_halves_come_apart) {
  // Two heads of 6 rows: llama.cpp stores 0 3 1 4 2 5 of each.
  const layout::Expr expr = undo_rotary_permutation(layout::Expr::input("q", {12}), 2);
  const std::vector<float> stored = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  const std::vector<float> restored = evaluate(expr, [&](const std::string&) { return stored; });
  for (size_t i = 0; i < restored.size(); ++i) EXPECT_EQ(restored[i], float(i));
  EXPECT_EQ(undo_rotary_permutation(layout::Expr::input("q", {12, 7}), 2).shape(), (Shape{12, 7}));
  EXPECT_THROW(undo_rotary_permutation(layout::Expr::input("q", {12, 7}), 4), UserError);
  EXPECT_THROW(undo_rotary_permutation(layout::Expr::input("q", {12, 7}), 0), UserError);
}

TEST(GgufSource, config_is_transformers) {
  const auto file = formats::open_gguf(kFixtures / "llama.gguf");
  const Json config = gguf_to_hf_config(*file);
  const Json expected = read_json(kFixtures / "llama.expected.json").at("config");
  for (const auto& [key, value] : config.members()) {
    if (key == "architectures" || key == "torch_dtype" || key == "rope_scaling" || key == "rope_theta") continue;
    ASSERT_TRUE(expected.contains(key)) << key;
    EXPECT_EQ(value, expected.at(key)) << key;
  }
  EXPECT_EQ(config.at("rope_theta"), expected.at("rope_parameters").at("rope_theta"));
  EXPECT_EQ(expected.at("rope_parameters").at("rope_type"), Json("default"));
  EXPECT_TRUE(config.at("rope_scaling").is_null());
  EXPECT_EQ(config.at("architectures"), Json::array({Json("LlamaForCausalLM")}));
  EXPECT_EQ(config.at("torch_dtype"), Json("float32"));
}

TEST(GgufSource, side_files) {
  const auto file = formats::open_gguf(kFixtures / "llama.gguf");
  std::map<std::string, Json> files;
  for (const auto& [name, text] : read_gguf_model(*file).side_files) files[name] = Json::parse(text, name);
  ASSERT_EQ(files.size(), 4u);
  EXPECT_EQ(files.at("generation_config.json").at("eos_token_id"), Json(2));
  EXPECT_EQ(files.at("tokenizer_config.json").at("chat_template"), Json("{{ messages }}"));
  EXPECT_EQ(files.at("tokenizer_config.json").at("eos_token"), Json("</s>"));
  EXPECT_EQ(files.at("special_tokens_map.json").at("bos_token"), Json("<s>"));
}

TEST(GgufTokenizer, tokenizer_json_is_what_transformers_saves) {
  for (const std::string name : {"llama", "byte_level", "qwen2"}) {
    const auto file = formats::open_gguf(kFixtures / (name + ".gguf"));
    const auto files = gguf_tokenizer_files(*file);
    ASSERT_EQ(files.at(0).first, "tokenizer.json");
    EXPECT_EQ(files.at(0).second, read_text_file(kFixtures / (name + ".tokenizer.json"))) << name;
  }
}

// A Llama with one layer and 4 tokens.
class Model {
 public:
  Model() {
    builder_.text("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 64);
    builder_.u32("llama.embedding_length", 8).u32("llama.feed_forward_length", 8);
    builder_.u32("llama.attention.head_count", 2).f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    builder_.f32_tensor("token_embd.weight", {8, 4}).f32_tensor("blk.0.attn_q.weight", {8, 8});
  }
  Model& with_tokens(const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
    builder_.text("tokenizer.ggml.model", "gpt2").entry("tokenizer.ggml.tokens", 9, GgufBuilder::strings(tokens));
    builder_.entry("tokenizer.ggml.merges", 9, GgufBuilder::strings(merges));
    return *this;
  }
  GgufBuilder* operator->() { return &builder_; }
  GgufModel read() const {
    const TemporaryFile file(builder_.build());
    return read_gguf_model(*formats::open_gguf(file.path()));
  }
  std::string error() const {
    try {
      read();
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }

 private:
  GgufBuilder builder_;
};

TEST(GgufSource, absent_keys_have_llama_cpps_defaults) {
  const GgufModel model = Model().read();
  EXPECT_EQ(model.config.at("num_key_value_heads"), Json(2));
  EXPECT_EQ(model.config.at("head_dim"), Json(4));
  EXPECT_EQ(model.config.at("rope_theta"), Json(10000.0));
  EXPECT_EQ(model.config.at("vocab_size"), Json(4));
  EXPECT_EQ(model.config.at("tie_word_embeddings"), Json(true));
  ASSERT_EQ(model.side_files.size(), 1u);  // no tokenizer in the file
  EXPECT_EQ(model.side_files[0].first, "generation_config.json");
}

TEST(GgufSource, linear_rope_scaling) {
  Model model;
  model->text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4);
  EXPECT_EQ(model.read().config.at("rope_scaling"), Json::object({{"rope_type", "linear"}, {"factor", 4.0}}));
  Model yarn;
  yarn->text("llama.rope.scaling.type", "yarn");
  EXPECT_THAT(yarn.error(), HasSubstr("llama.rope.scaling.type is yarn"));
}

TEST(GgufSource, llama3_rope_factors_become_rope_scaling) {
  const auto with_factors = [](float last) {
    GgufBuilder builder;
    builder.text("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 64);
    builder.u32("llama.embedding_length", 16)
        .u32("llama.feed_forward_length", 8)
        .f32("llama.rope.freq_base", 500000);
    builder.u32("llama.attention.head_count", 1).f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    // Wavelengths 2 pi 500000^(i/8): 6 ... 116,000; those between 2048 and 8192 lie on the ramp.
    std::string values;
    for (int i = 0; i < 8; ++i) {
      const double wave = 2 * std::numbers::pi * std::pow(500000.0, i / 8.0);
      const double smooth = (8192 / wave - 1) / 3;
      double factor = wave < 2048 ? 1 : wave > 8192 ? 8 : 1 / ((1 - smooth) / 8 + smooth);
      if (i == 7) factor = last;
      values += GgufBuilder::bytes(static_cast<float>(factor));
    }
    builder.f32_tensor("token_embd.weight", {16, 4}).tensor("rope_freqs.weight", {8}, 0, values);
    const TemporaryFile file(builder.build());
    return read_gguf_model(*formats::open_gguf(file.path()));
  };
  const GgufModel model = with_factors(8);
  EXPECT_EQ(model.config.at("rope_scaling"), Json::object({{"rope_type", "llama3"},
                                                           {"factor", 8.0},
                                                           {"low_freq_factor", 1.0},
                                                           {"high_freq_factor", 4.0},
                                                           {"original_max_position_embeddings", 8192}}));
  ASSERT_EQ(model.unused.size(), 1u);
  EXPECT_EQ(model.unused[0].first, "rope_freqs.weight");
  EXPECT_THROW(with_factors(7), UserError);
  EXPECT_THROW(with_factors(std::numeric_limits<float>::quiet_NaN()), UserError);
}

TEST(GgufSourceRefuses, what_cannot_be_expressed) {
  const auto error = [](auto change) {
    Model model;
    change(*model.operator->());
    return model.error();
  };
  EXPECT_EQ(error([](GgufBuilder&) {}), "");
  EXPECT_THAT(error([](GgufBuilder& b) {
                b.f32_tensor("blk.0.attn_qkv.weight", {8, 8});
              }),
              HasSubstr("tensor blk.0.attn_qkv.weight is none of a llama model"));
  for (const std::string name :
       {"blk.1.attn_v.weight", "blk.00.attn_v.weight", "blk.-0.attn_v.weight", "blk.x", "blk..weight",
        "blk.0.weight", "output.scale", "nothing", "blk.0.attn_v.weight.weight"})
    EXPECT_THAT(error([&](GgufBuilder& b) { b.f32_tensor(name, {8}); }), HasSubstr("tensor " + name)) << name;
  EXPECT_THAT(error([](GgufBuilder& b) { b.u32("llama.expert_count", 8); }),
              HasSubstr("llama.expert_count is 8, which LlamaForCausalLM does not have"));
  EXPECT_THAT(error([](GgufBuilder& b) { b.f32("llama.logit_scale", 2); }), HasSubstr("llama.logit_scale is 2"));
  EXPECT_THAT(
      error([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 2).u32("llama.attention.key_length", 4); }),
      HasSubstr("partial rotary"));
  EXPECT_THAT(error([](GgufBuilder& b) { b.u32("llama.attention.head_count_kv", 3); }), HasSubstr("3 groups"));
  EXPECT_THAT(error([](GgufBuilder& b) { b.u32("llama.attention.head_count_kv", 0); }),
              HasSubstr("head_count_kv is 0"));
  EXPECT_THAT(error([](GgufBuilder& b) { b.u32("llama.vocab_size", 5); }),
              HasSubstr("4 rows for a vocabulary of 5"));
  EXPECT_THAT(error([](GgufBuilder& b) {
                b.f32_tensor("blk.0.attn_k.weight", {8, 6});
              }),
              HasSubstr("tensor blk.0.attn_k.weight: rows of shape [6, 8]"));

  GgufBuilder bare;
  bare.f32_tensor("token_embd.weight", {8, 4});
  const TemporaryFile no_architecture(bare.build());
  EXPECT_THROW(read_gguf_model(*formats::open_gguf(no_architecture.path())), UserError);
  bare.text("general.architecture", "mamba");
  const TemporaryFile mamba(bare.build());
  try {
    read_gguf_model(*formats::open_gguf(mamba.path()));
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("architecture is mamba; GGUF files can be read of llama, qwen2, qwen3, "
                                        "qwen3moe, olmoe, gemma, gemma2, gemma3, deepseek2, gpt-oss"));
  }
}

// A model of any architecture, 8 wide, with one layer of 2 heads of 4.
class OtherModel {
 public:
  explicit OtherModel(const std::string& architecture, uint32_t blocks = 1) : prefix_(architecture + ".") {
    builder_.text("general.architecture", architecture).f32_tensor("token_embd.weight", {8, 4});
    u32("block_count", blocks).u32("context_length", 64).u32("embedding_length", 8).u32("feed_forward_length", 16);
    u32("attention.head_count", 2).f32("attention.layer_norm_rms_epsilon", 1e-5f);
  }
  OtherModel& u32(const std::string& key, uint32_t value) { return builder_.u32(prefix_ + key, value), *this; }
  OtherModel& f32(const std::string& key, float value) { return builder_.f32(prefix_ + key, value), *this; }
  OtherModel& text(const std::string& key, std::string_view value) {
    return builder_.text(prefix_ + key, value), *this;
  }
  OtherModel& tensor(const std::string& name, const std::vector<uint64_t>& axes) {
    return builder_.f32_tensor(name, axes), *this;
  }
  OtherModel& experts() {
    return u32("expert_count", 4).u32("expert_used_count", 2).u32("expert_feed_forward_length", 16);
  }
  OtherModel& latent() {
    u32("attention.kv_lora_rank", 6).u32("rope.dimension_count", 2).u32("attention.key_length", 8);
    u32("attention.value_length", 6).u32("attention.key_length_mla", 5).u32("attention.value_length_mla", 4);
    return experts().u32("expert_group_count", 1).u32("expert_group_used_count", 1);
  }
  GgufBuilder* operator->() { return &builder_; }
  GgufModel read() const {
    const TemporaryFile file(builder_.build());
    return read_gguf_model(*formats::open_gguf(file.path()));
  }
  std::string error() const {
    try {
      read();
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }

 private:
  std::string prefix_;
  GgufBuilder builder_;
};

TEST(GgufSource, stacked_experts_are_slices) {
  OtherModel moe("qwen3moe");
  moe.experts().tensor("blk.0.ffn_down_exps.weight", {16, 8, 4}).tensor("blk.0.ffn_gate_inp.weight", {8, 4});
  const GgufModel model = moe.read();
  EXPECT_EQ(model.tensors.size(), 6u);
  EXPECT_TRUE(model.tensors.contains("model.layers.0.mlp.gate.weight"));
  for (int expert = 0; expert < 4; ++expert) {
    const layout::Expr& expr =
        model.tensors.at("model.layers.0.mlp.experts." + std::to_string(expert) + ".down_proj.weight");
    EXPECT_EQ(expr.shape(), (Shape{8, 16}));
    ASSERT_EQ(expr.pieces().size(), 1u);
    EXPECT_EQ(expr.pieces()[0].from.offset[0], expert);
    EXPECT_EQ(expr.inputs()[0].name, "blk.0.ffn_down_exps.weight");
  }
  EXPECT_EQ(model.config.at("num_experts"), Json(4));
  EXPECT_EQ(model.config.at("norm_topk_prob"), Json(true));
  EXPECT_TRUE(model.offsets.empty());
}

TEST(GgufSource, gemmas_norms_are_stored_with_one_more) {
  OtherModel gemma("gemma");
  gemma.tensor("output_norm.weight", {8})
      .tensor("blk.0.ffn_norm.weight", {8})
      .tensor("blk.0.ffn_up.weight", {8, 16});
  EXPECT_EQ(gemma.read().offsets,
            (std::map<std::string, float, std::less<>>{{"output_norm.weight", -1}, {"blk.0.ffn_norm.weight", -1}}));
}

TEST(GgufSource, query_scales_are_llama_cpps) {
  OtherModel small("gemma2"), largest("gemma2", 46), windowless("gemma3");
  small.u32("attention.key_length", 2);
  largest.u32("attention.key_length", 2);
  EXPECT_EQ(small.read().config.at("query_pre_attn_scalar"), Json(2));
  EXPECT_EQ(small.read().config.at("attn_logit_softcapping"), Json(50.0));
  EXPECT_EQ(largest.read().config.at("query_pre_attn_scalar"), Json(4));
  EXPECT_EQ(windowless.read().config.at("layer_types"), Json::array({Json("full_attention")}));
  windowless.u32("attention.sliding_window", 16);
  EXPECT_EQ(windowless.read().config.at("layer_types"), Json::array({Json("sliding_attention")}));
}

TEST(GgufSource, latent_attention) {
  OtherModel model("deepseek2");
  model.latent().u32("expert_gating_func", 2).f32("rope.scaling.yarn_log_multiplier", 0.0707f);
  model.u32("rope.scaling.original_context_length", 16).f32("rope.scaling.factor", 4);
  model.text("rope.scaling.type", "yarn");
  model.tensor("blk.0.attn_v_b.weight", {6, 4, 2}).tensor("blk.0.attn_k_b.weight", {3, 6, 2});
  const GgufModel read = model.read();
  EXPECT_EQ(read.config.at("architectures"), Json::array({Json("DeepseekV3ForCausalLM")}));
  EXPECT_EQ(read.config.at("rope_scaling").at("mscale"), Json(0.707));
  EXPECT_EQ(read.config.at("qk_nope_head_dim"), Json(3));
  EXPECT_EQ(read.config.at("v_head_dim"), Json(4));
  EXPECT_EQ(read.tensors.size(), 2u);
  // Of each head three rows of k, which lie as columns, then four of v.
  const std::vector<float> rows =
      evaluate(read.tensors.at("model.layers.0.self_attn.kv_b_proj.weight"), [&](const std::string& name) {
        std::vector<float> numbers(name == "blk.0.attn_k_b.weight" ? 36 : 48);
        for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = float(i) + (numbers.size() == 48 ? 100 : 0);
        return numbers;
      });
  ASSERT_EQ(rows.size(), 84u);
  EXPECT_EQ(rows[0], 0);
  EXPECT_EQ(rows[1], 3);
  EXPECT_EQ(rows[6], 1);
  EXPECT_EQ(rows[18], 100);
  EXPECT_EQ(rows[42], 18);
  EXPECT_EQ(rows[60], 124);
}

TEST(GgufSource, groups_of_experts_that_older_files_do_not_name) {
  const auto groups = [](uint32_t experts) {
    OtherModel model("deepseek2");
    model.u32("attention.kv_lora_rank", 6).u32("rope.dimension_count", 2).u32("attention.key_length", 5);
    model.u32("attention.value_length", 4).u32("expert_feed_forward_length", 16).u32("expert_used_count", 2);
    return model.u32("expert_count", experts).read().config.at("n_group");
  };
  EXPECT_EQ(groups(64), Json(1));
  EXPECT_EQ(groups(160), Json(8));
  EXPECT_EQ(groups(256), Json(8));
  EXPECT_THROW(groups(48), UserError);
}

TEST(GgufSourceRefuses, experts_and_parts_that_do_not_fit) {
  const auto moe = [] { return OtherModel("qwen3moe").experts(); };
  EXPECT_EQ(moe().error(), "");
  EXPECT_THAT(moe().tensor("blk.0.ffn_up_exps.weight", {8, 4}).error(),
              HasSubstr("tensor blk.0.ffn_up_exps.weight: its shape is [4, 8], expected [experts, rows, columns]"));
  EXPECT_THAT(moe().tensor("blk.0.ffn_up_exps.weight", {0, 4, 1u << 30}).error(), HasSubstr("expected [experts"));
  EXPECT_THAT(moe().tensor("blk.0.ffn_up.weight", {8, 4}).error(), HasSubstr("is none of a qwen3moe model"));
  EXPECT_THAT(moe().u32("expert_shared_count", 1).error(), HasSubstr("expert_shared_count is 1"));
  EXPECT_THAT(moe().f32("expert_weights_scale", 2.5f).error(), HasSubstr("expert_weights_scale is 2.5"));
  EXPECT_THAT(OtherModel("qwen3moe").error(), HasSubstr("qwen3moe.expert_feed_forward_length is missing"));
  const auto latent = [] { return OtherModel("deepseek2").latent(); };
  EXPECT_EQ(latent().error(), "");
  EXPECT_THAT(moe()
                  .tensor("blk.0.ffn_up_exps.weight", {8, 4, 4})
                  .tensor("blk.0.ffn_gate_up_exps.weight", {8, 8, 4})
                  .error(),
              HasSubstr("experts.0.up_proj.weight is made of blk.0.ffn_up_exps.weight too"));
  EXPECT_THAT(latent().tensor("blk.0.attn_k_b.weight", {3, 6, 2}).error(),
              HasSubstr("tensor blk.0.attn_k_b.weight: the tensor blk.0.attn_v_b.weight that belongs to it is "
                        "missing"));
  EXPECT_THAT(latent().tensor("blk.0.attn_v_b.weight", {6, 4, 2}).error(),
              HasSubstr("attn_k_b.weight that belongs"));
  EXPECT_THAT(
      latent().tensor("blk.0.attn_k_b.weight", {3, 6, 2}).tensor("blk.0.attn_v_b.weight", {6, 4, 3}).error(),
      HasSubstr("tensor blk.0.attn_k_b.weight: "));
  EXPECT_THAT(latent().u32("expert_gating_func", 3).error(), HasSubstr("expert_gating_func is 3"));
  const auto oss = [](uint32_t blocks = 1) {
    OtherModel model("gpt-oss", blocks);
    model.experts().u32("attention.sliding_window", 8).u32("rope.scaling.original_context_length", 16);
    return model.f32("rope.scaling.factor", 4);
  };
  EXPECT_THAT(oss().error(), HasSubstr("gpt-oss.rope.scaling.type is none; this architecture has yarn"));
  for (const char* architecture : {"gpt-oss", "gemma3"}) {
    OtherModel many(architecture, 1u << 30);
    if (std::string_view(architecture) == "gpt-oss") many = oss(1u << 30).text("rope.scaling.type", "yarn");
    EXPECT_THAT(many.error(), HasSubstr("block_count is 1073741824")) << architecture;
  }
}

TEST(GgufTokenizerRefuses, what_does_not_fit_together) {
  EXPECT_EQ(Model().with_tokens({"a", "b", "ab", "<s>"}, {"a b"}).error(), "");
  EXPECT_THAT(Model().with_tokens({"a", "b", "ab", "c"}, {"a c"}).error(), HasSubstr("\"ac\" is no token"));
  EXPECT_THAT(Model().with_tokens({"a", "b", "ab", "c"}, {"ab"}).error(), HasSubstr("expected two tokens"));
  EXPECT_THAT(Model().with_tokens({"a", "b", "ab", "c"}, {"a b c"}).error(), HasSubstr("expected two tokens"));
  EXPECT_THAT(Model().with_tokens({"a", "b", "ab", "\xff"}, {}).error(), HasSubstr("not UTF-8"));
  EXPECT_THAT(Model().with_tokens({"a", "b"}, {}).error(), HasSubstr("for a vocabulary of 2"));
  Model bos, types, model;
  bos.with_tokens({"a", "b", "ab", "c"}, {})->u32("tokenizer.ggml.bos_token_id", 4);
  EXPECT_THAT(bos.error(), HasSubstr("tokenizer.ggml.bos_token_id is 4, there are 4 tokens"));
  types.with_tokens({"a", "b", "ab", "c"}, {})
      ->entry("tokenizer.ggml.token_type", 9, GgufBuilder::numbers<int32_t>(5, {1}));
  EXPECT_THAT(types.error(), HasSubstr("token_type has 1 elements for 4 tokens"));
  model->text("tokenizer.ggml.model", "bert");
  EXPECT_THAT(model.error(), HasSubstr("tokenizer.ggml.model is 'bert'"));
}

TEST(GgufTokenizer, user_defined_pieces_are_found_whole) {
  Model model;
  model->text("tokenizer.ggml.model", "llama");
  model->entry("tokenizer.ggml.tokens", 9, GgufBuilder::strings({"<unk>", "<s>", "<turn>", "a"}));
  model->entry("tokenizer.ggml.scores", 9, GgufBuilder::numbers<float>(6, {0, 0, 0, -1}));
  model->entry("tokenizer.ggml.token_type", 9, GgufBuilder::numbers<int32_t>(5, {2, 3, 4, 1}));
  for (const auto& [name, text] : model.read().side_files) {
    if (name != "tokenizer.json") continue;
    const std::vector<Json> added = Json::parse(text, name).at("added_tokens").items();
    ASSERT_EQ(added.size(), 2u);
    EXPECT_EQ(added[0].at("content"), Json("<s>"));
    EXPECT_EQ(added[0].at("special"), Json(true));
    EXPECT_EQ(added[1].at("content"), Json("<turn>"));
    EXPECT_EQ(added[1].at("special"), Json(false));
    return;
  }
  FAIL() << "no tokenizer.json";
}

TEST(GgufTokenizer, unknown_splits_are_said) {
  OtherModel model("gemma3");
  model->text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "odd");
  model->entry("tokenizer.ggml.tokens", 9, GgufBuilder::strings({"a", "b", "c", "d"}));
  const GgufModel read = model.read();
  ASSERT_EQ(read.notes.size(), 1u);
  EXPECT_THAT(read.notes[0], HasSubstr("the tokenizer is left out: how \"odd\""));
  EXPECT_EQ(read.side_files.size(), 1u);
}

TEST(GgufTokenizer, bos_and_eos_are_added_where_the_file_says_so) {
  Model model;
  model.with_tokens({"a", "<s>", "</s>", "c"}, {})->u32("tokenizer.ggml.bos_token_id", 1);
  model->u32("tokenizer.ggml.eos_token_id", 2).flag("tokenizer.ggml.add_bos_token", true);
  model->flag("tokenizer.ggml.add_eos_token", true);
  for (const auto& [name, text] : model.read().side_files) {
    if (name != "tokenizer.json") continue;
    const Json post = Json::parse(text, name).at("post_processor");
    EXPECT_EQ(post.at("single").items().size(), 3u);
    EXPECT_EQ(post.at("single").items()[0].at("SpecialToken").at("id"), Json("<s>"));
    EXPECT_EQ(post.at("pair").items().size(), 6u);
    EXPECT_EQ(post.at("special_tokens").at("</s>").at("ids"), Json::array({Json(2)}));
    return;
  }
  FAIL() << "no tokenizer.json";
}

}  // namespace
}  // namespace viaduct::models
