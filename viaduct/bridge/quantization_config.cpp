// What configurations say of quantisation.
#include "viaduct/bridge/quantized_source.h"
#include "viaduct/core/error.h"
#include "viaduct/models/hf_config.h"

namespace viaduct::bridge {

using Method = Quantization::Method;

namespace {

constexpr std::string_view kKeys[] = {"quantization_config", "compression_config"};

[[noreturn]] void refuse(const std::string& origin, std::string_view what) {
  throw UserError(fmt::format(
      "{}: the weights are quantised with {}, which viaduct does not read. Read are FP8 (fp8, modelopt, "
      "compressed-tensors), MXFP4 and compressed-tensors' INT4: use the model's original weights, or save "
      "it dequantised to bfloat16 first",
      origin, what));
}

std::string text_of(const Json& json, std::string_view key) {
  const Json* value = json.find(key);
  return value && value->is_string() ? value->as_string() : "";
}

bool is_present(const Json* json) { return json && !json->is_null(); }

Quantization read_blocks(const Json& block, std::string_view key, const std::string& origin) {
  const std::vector<Json>& sizes = block.items();
  VIADUCT_USER_CHECK(sizes.size() == 2 && sizes[0].as_int() > 0 && sizes[1].as_int() > 0,
                     "{}: {} must be two sizes above 0, not {}", origin, key, block.dump());
  return {Method::kFp8, sizes[0].as_int(), sizes[1].as_int()};
}

Quantization read_fp8(const Json& json, const std::string& origin) {
  const Json* block = json.find("weight_block_size");
  return is_present(block) ? read_blocks(*block, "weight_block_size", origin) : Quantization{Method::kFp8};
}

// Both of ModelOpt's files: the keys lie at the top in config.json, below "quantization" in hf_quant_config.json.
Quantization read_modelopt(const Json& json, const std::string& origin) {
  const Json* inner = json.find("quantization");
  const Json& body = inner && inner->is_object() ? *inner : json;
  const std::string algorithm = text_of(body, "quant_algo");
  if (algorithm == "MIXED_PRECISION") {
    const Json* layers = body.find("quantized_layers");
    VIADUCT_USER_CHECK(layers && layers->is_object(), "{}: MIXED_PRECISION without \"quantized_layers\"", origin);
    for (const auto& [layer, how] : layers->members())
      if (text_of(how, "quant_algo") != "FP8")
        refuse(origin, fmt::format("ModelOpt {} ({})", text_of(how, "quant_algo"), layer));
  } else if (algorithm != "FP8") {
    refuse(origin, fmt::format("ModelOpt {}", algorithm.empty() ? "without a quant_algo" : algorithm));
  }
  return {Method::kModelOptFp8};
}

Quantization read_compressed(const Json& json, const std::string& origin) {
  const std::string format = text_of(json, "format");
  const Json* groups = json.find("config_groups");
  VIADUCT_USER_CHECK(groups && groups->is_object() && !groups->members().empty(),
                     "{}: compressed-tensors without \"config_groups\"", origin);
  std::optional<Quantization> result;
  for (const auto& [name, group] : groups->members()) {
    const Json* weights = group.find("weights");
    VIADUCT_USER_CHECK(is_present(weights), "{}: config group {} quantises no weights", origin, name);
    const std::string type = text_of(*weights, "type"), strategy = text_of(*weights, "strategy");
    const int64_t bits = weights->at("num_bits").as_int();
    const Json* symmetric = weights->find("symmetric");
    const bool centred = !is_present(symmetric) || symmetric->as_bool();
    const std::string what = fmt::format("compressed-tensors {} ({} bits, {}, by {}{})", format, bits, type,
                                         strategy, centred ? "" : ", not symmetric");
    Quantization found;
    if (type == "float" && bits == 8 && (format == "float-quantized" || format == "naive-quantized") &&
        (strategy == "tensor" || strategy == "channel" || strategy == "block")) {
      if (strategy == "block") found = read_blocks(weights->at("block_structure"), "block_structure", origin);
      found.method = Method::kCompressedFp8;
    } else if (type == "int" && bits == 4 && format == "pack-quantized" && centred &&
               (strategy == "group" || strategy == "channel")) {
      found.method = Method::kCompressedInt4;
      if (strategy == "group") found.group = weights->at("group_size").as_int();
      VIADUCT_USER_CHECK(strategy != "group" || found.group > 0, "{}: group_size {}", origin, found.group);
    } else {
      refuse(origin, what);
    }
    if (result && (result->method != found.method || result->group != found.group ||
                   result->block_rows != found.block_rows || result->block_columns != found.block_columns))
      refuse(origin, "several of compressed-tensors' forms at once");
    result = found;
  }
  return *result;
}

const Json* find_section(const Json& config) {
  for (const Json* part : {&config, &models::language_part(config)})
    for (const std::string_view key : kKeys)
      if (const Json* section = part->find(key); is_present(section)) return section;
  return nullptr;
}

}  // namespace

std::optional<Quantization> read_quantization(const Json& config, const Json* hf_quant_config,
                                              const std::string& origin) {
  const Json* section = find_section(config);
  try {
    if (section) {
      const std::string method = text_of(*section, "quant_method");
      if (method == "fp8") return read_fp8(*section, origin);
      if (method == "mxfp4") return Quantization{Method::kMxfp4};
      if (method == "compressed-tensors") return read_compressed(*section, origin);
      if (method == "modelopt") return read_modelopt(*section, origin);
      refuse(origin, method.empty() ? "a method that quantization_config does not name" : method);
    }
    if (hf_quant_config) return read_modelopt(*hf_quant_config, origin);
  } catch (const UserError& error) {
    const std::string_view what = error.what();
    if (what.starts_with(origin)) throw;
    throw UserError(fmt::format("{}: quantization_config: {}", origin, what));
  }
  return std::nullopt;
}

std::optional<Quantization> read_quantization(const SourceRecord& record) {
  if (!record.config) return std::nullopt;
  std::optional<Json> second;
  if (const SideFile* file = record.find("hf_quant_config.json"))
    second = Json::parse(record.read(*file), file->name);
  return read_quantization(*record.config, second ? &*second : nullptr, record.origin);
}

void erase_quantization(Json& config) {
  for (Json* part : {&config, &models::language_part(config)})
    for (const std::string_view key : kKeys) part->erase(key);
}

}  // namespace viaduct::bridge
