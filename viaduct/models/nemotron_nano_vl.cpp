// Nemotron Nano v2 VL: a RADIO vision tower and a projector before a Nemotron Nano v2 hybrid.
#include <array>
#include <cmath>
#include <set>

#include "viaduct/models/family.h"
#include "viaduct/models/hybrid_decoder.h"

namespace viaduct::models {
namespace {

// The tower's sizes by the name that timm gives it, which is all that published configurations say of them.
struct NamedTower {
  std::string_view name;
  int64_t hidden_size, num_layers, num_heads;
};
constexpr std::array<NamedTower, 4> kTowers = {{{"vit_small_", 384, 12, 6},
                                                {"vit_base_", 768, 12, 12},
                                                {"vit_large_", 1024, 24, 16},
                                                {"vit_huge_", 1280, 32, 16}}};
constexpr int64_t kMaxResolution = 2048;

int64_t first_of(std::initializer_list<std::optional<int64_t>> values, const HfConfig& config, const char* what) {
  for (const auto& value : values)
    if (value) return *value;
  config.fail(fmt::format("nothing says {}", what));
}

// Class tokens and registers together, which are rows of one tensor.
int64_t count_class_tokens(const HfConfig& vision, const HfConfig& args) {
  if (const auto count = vision.optional_integer("num_cls_tokens"))
    return *count + vision.integer_or("num_registers", 0);
  int64_t tokens = 1;
  if (args.boolean_or("cls_token_per_teacher", false) && args.has("teachers")) {
    std::set<std::string> names;
    for (const Json& teacher : args.document().at("teachers").items()) names.insert(teacher.at("name").as_string());
    tokens = static_cast<int64_t>(names.size());
  }
  if (const auto registers = args.optional_integer("cpe_num_registers")) return tokens + *registers;
  const int64_t multiple = args.integer_or("register_multiple", 0);
  return multiple > 0 ? tokens + multiple - tokens % multiple : tokens;
}

VisionSpec read_vision(const HfConfig& config, int64_t output_size) {
  const HfConfig vision = config.child("vision_config");
  const HfConfig args = vision.has("args") ? vision.child("args") : HfConfig(Json::object(), vision.origin());
  std::optional<int64_t> hidden, layers, heads;
  const std::string model = args.text_or("model", "");
  for (const NamedTower& tower : kTowers)
    if (model.starts_with(tower.name))
      hidden = tower.hidden_size, layers = tower.num_layers, heads = tower.num_heads;

  VisionSpec spec;
  spec.tower = VisionTower::kRadio;
  spec.hidden_size =
      first_of({vision.optional_integer("hidden_size"), hidden, config.optional_integer("vit_hidden_size")}, vision,
               "how wide the vision tower is (\"hidden_size\", or \"args\".\"model\")");
  spec.num_layers = first_of({vision.optional_integer("num_hidden_layers"), layers}, vision,
                             "how many layers the vision tower has (\"num_hidden_layers\", or \"args\".\"model\")");
  spec.num_heads = first_of({vision.optional_integer("num_attention_heads"), heads}, vision,
                            "how many heads the vision tower has (\"num_attention_heads\", or \"args\".\"model\")");
  if (spec.num_heads < 1 || spec.hidden_size % spec.num_heads != 0)
    vision.fail(fmt::format("the vision tower's width {} does not divide among {} heads", spec.hidden_size,
                            spec.num_heads));
  spec.head_dim = spec.hidden_size / spec.num_heads;
  spec.ffn_hidden_size = vision.integer_or("intermediate_size", 4 * spec.hidden_size);
  spec.patch_size = first_of({vision.optional_integer("patch_size"), config.optional_integer("patch_size")}, vision,
                             "how large a patch is (\"patch_size\")");
  if (spec.patch_size < 1) vision.fail(fmt::format("\"patch_size\" is {}", spec.patch_size));
  spec.image_size = config.integer_or("force_image_size", vision.integer_or("image_size", 512));
  const int64_t side = first_of({args.optional_integer("cpe_max_size"), vision.optional_integer("max_img_size"),
                                 vision.optional_integer("max_resolution"), kMaxResolution},
                                vision, "") /
                       spec.patch_size;
  spec.num_positions = side * side;
  spec.num_class_tokens = count_class_tokens(vision, args);
  const double ratio = config.number_or("downsample_ratio", 0.5);
  if (!(ratio > 0.0 && ratio <= 1.0)) config.fail(fmt::format("\"downsample_ratio\" is {}", ratio));
  spec.merge_size = std::llround(1.0 / ratio);
  spec.projector_ffn_size = config.integer("projector_hidden_size");
  spec.output_size = output_size;
  spec.attention_bias = true;
  return spec;
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig language = config.child("llm_config");
  ArchSpec arch = read_hybrid_config(language);
  if (arch.mtp)
    language.fail("\"num_nextn_predict_layers\" is not 0; Megatron's model has no such layers beside a tower");
  if (const auto dtype = config.dtype()) arch.dtype = *dtype;
  arch.language_module = "llava_model.language_model.";
  arch.vision = read_vision(config, arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const VisionSpec& vision = arch.vision.value();
  Json language = config;
  write_hybrid_config(arch, language);
  language.set("architectures", Json::array({Json("NemotronHForCausalLM")}));
  language.set("model_type", "nemotron_h");
  Json tower = Json::object();
  tower.set("hidden_size", vision.hidden_size);
  tower.set("intermediate_size", vision.ffn_hidden_size);
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(vision.num_positions))));
  tower.set("max_resolution", side * vision.patch_size);
  tower.set("model_type", "radio_vision_model");
  tower.set("num_attention_heads", vision.num_heads);
  tower.set("num_cls_tokens", vision.num_class_tokens);
  tower.set("num_hidden_layers", vision.num_layers);
  tower.set("patch_size", vision.patch_size);
  const Json architectures = config.at("architectures"), type = config.at("model_type");
  config = Json::object();
  config.set("architectures", architectures);
  config.set("downsample_ratio", 1.0 / static_cast<double>(vision.merge_size));
  config.set("force_image_size", vision.image_size);
  config.set("llm_config", std::move(language));
  config.set("model_type", type);
  config.set("patch_size", vision.patch_size);
  config.set("projector_hidden_size", vision.projector_ffn_size);
  config.set("ps_version", "v2");
  config.set("torch_dtype", torch_name(arch.dtype));
  config.set("vision_config", std::move(tower));
  config.set("vit_hidden_size", vision.hidden_size);
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_hybrid_provider(arch, provider);
  provider.target = "megatron.bridge.models.nemotron_vl.nemotron_vl_provider.NemotronVLModelProvider";
  provider.attention_softmax_in_fp32 = true;
  provider.scatter_embedding_sequence_parallel = false;
  if (!arch.has_moe()) provider.moe_shared_expert_intermediate_size.reset();
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("NemotronVLModelProvider") != std::string::npos;
}

// The provider has no fields for tower and projector: these are the sizes that its class builds.
void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  read_hybrid_provider(provider, arch);
  arch.language_module = "llava_model.language_model.";
  VisionSpec& vision = arch.vision.emplace();
  vision.tower = VisionTower::kRadio;
  vision.num_layers = 32;
  vision.hidden_size = 1280;
  vision.ffn_hidden_size = 5120;
  vision.num_heads = 16;
  vision.head_dim = 80;
  vision.image_size = 512;
  vision.patch_size = 16;
  vision.num_positions = (kMaxResolution / 16) * (kMaxResolution / 16);
  vision.merge_size = 2;
  vision.num_class_tokens = 16;
  vision.projector_ffn_size = 20480;
  vision.output_size = arch.hidden_size;
  vision.attention_bias = true;
}

std::vector<WeightRule> vision_rules() {
  const std::string tower = "llava_model.vision_model.", model = "vision_model.radio_model.model.";
  const std::string layer = tower + "decoder.layers.*.", block = model + "blocks.*.";
  const std::string projector = "llava_model.vision_projection.encoder.";
  std::vector<WeightRule> rules = {
      same(tower + "class_token", model + "patch_generator.cls_token.token"),
      same(tower + "position_embeddings", model + "patch_generator.pos_embed"),
      same(tower + "embedder.weight", model + "patch_generator.embedder.weight"),
      same(projector + "linear_fc1.layer_norm_weight", "mlp1.0.weight"),
      same(projector + "linear_fc1.weight", "mlp1.1.weight"),
      same(projector + "linear_fc2.weight", "mlp1.3.weight"),
  };
  for (const std::string part : {"weight", "bias"}) {
    rules.push_back(
        vision_query_key_value(layer + "self_attention.linear_qkv." + part, block + "attn.qkv." + part));
    rules.push_back(same(layer + "self_attention.linear_qkv.layer_norm_" + part, block + "norm1." + part));
    rules.push_back(same(layer + "self_attention.linear_proj." + part, block + "attn.proj." + part));
    rules.push_back(same(layer + "mlp.linear_fc1.layer_norm_" + part, block + "norm2." + part));
    rules.push_back(same(layer + "mlp.linear_fc1." + part, block + "mlp.fc1." + part));
    rules.push_back(same(layer + "mlp.linear_fc2." + part, block + "mlp.fc2." + part));
  }
  return rules;
}

}  // namespace

Family nemotron_nano_vl_family() {
  const std::string radio = "vision_model.radio_model.";
  WeightTable weights;
  weights.add(inside(hybrid_rules(), "llava_model.language_model.", "", "language_model."))
      .add(vision_rules())
      .derived({"language_model.lm_head.weight", DerivedTensor::Kind::kCopy,
                "language_model.backbone.embeddings.weight"});
  for (const char* buffer : {"input_conditioner.norm_mean", "input_conditioner.norm_std", "summary_idxs"})
    weights.derived({radio + buffer, DerivedTensor::Kind::kKept, ""});
  return {
      .name = "nemotron_nano_vl",
      .title = "Nemotron Nano v2 VL",
      .architecture = "NemotronH_Nano_VL_V2",
      .model_type = "NemotronH_Nano_VL_V2",
      .toy_config = R"({"downsample_ratio": 0.5, "force_image_size": 64, "llm_config": {
        "architectures": ["NemotronHForCausalLM"], "attention_dropout": 0.0, "dtype": "bfloat16", "head_dim": 12,
        "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 256,
        "model_type": "nemotron_h", "num_attention_heads": 4, "num_hidden_layers": 5, "num_key_value_heads": 2,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 256,
        "attention_bias": false, "hidden_dropout": 0.0, "hybrid_override_pattern": "M-M*-",
        "layer_norm_epsilon": 1e-05, "layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"],
        "mlp_bias": false, "mlp_hidden_act": "relu2", "residual_in_fp32": false, "use_bias": false,
        "chunk_size": 128, "conv_kernel": 4, "expand": 2, "mamba_head_dim": 12, "mamba_hidden_act": "silu",
        "mamba_num_heads": 8, "n_groups": 4, "ssm_state_size": 16, "use_conv_bias": true},
        "patch_size": 16, "projector_hidden_size": 72, "ps_version": "v2", "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 24, "intermediate_size": 36, "max_resolution": 128,
        "model_type": "radio_vision_model", "num_attention_heads": 4, "num_cls_tokens": 4, "num_hidden_layers": 2,
        "patch_size": 16}, "vit_hidden_size": 24})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"nemotron-nano-12b-v2-vl", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
               R"({"force_image_size": 512, "patch_size": 16, "projector_hidden_size": 20480, "vit_hidden_size": 1280,
                   "llm_config": {"hidden_size": 5120, "intermediate_size": 20480, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 80,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 131072,
                   "num_hidden_layers": 62,
                   "hybrid_override_pattern": "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"},
                   "vision_config": {"args": {"model": "vit_huge_patch16_224", "cpe_max_size": 2048,
                   "cls_token_per_teacher": true, "register_multiple": 16, "teachers": [{"name": "clip"},
                   {"name": "siglip"}, {"name": "dino_v2"}, {"name": "sam"}]},
                   "max_resolution": 2048, "patch_size": 16}})"},
              {"nemotron-nano-9b-v2-vl", "",
               R"({"force_image_size": 512, "patch_size": 16, "projector_hidden_size": 20480, "vit_hidden_size": 1280,
                   "llm_config": {"hidden_size": 4480, "intermediate_size": 15680, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 80,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 131072,
                   "num_hidden_layers": 56,
                   "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"},
                   "vision_config": {"args": {"model": "vit_huge_patch16_224", "cpe_max_size": 2048,
                   "cls_token_per_teacher": true, "register_multiple": 16, "teachers": [{"name": "clip"},
                   {"name": "siglip"}, {"name": "dino_v2"}, {"name": "sam"}]},
                   "max_resolution": 2048, "patch_size": 16}})"},
          },
      .proven = "import and export against Megatron Bridge 0.6.2 with a tower of other sizes",
  };
}

}  // namespace viaduct::models
