#include "viaduct/config/run_config.h"

namespace viaduct::config {
namespace {

constexpr std::string_view kSections =
#include "viaduct/config/run_config_sections.inc"
    ;

/// A key of a section as a T; nothing when the section or the key is absent or null.
template <class T>
std::optional<T> value_in(const RunConfig& config, std::string_view section, std::string_view key,
                          std::string_view origin) {
  const Yaml* there = config.section(section);
  if (!there) return std::nullopt;
  const std::string where = fmt::format("{}: {}", origin, section);
  VIADUCT_USER_CHECK(there->is_mapping(), "{} is {}, not a mapping", where, there->describe());
  const Yaml* value = there->find(key);
  return value ? decode<std::optional<T>>(*value, fmt::format("{}.{}", where, key)) : std::nullopt;
}

}  // namespace

const Yaml* RunConfig::section(std::string_view name) const {
  const Yaml* there = document.find(name);
  return there && !there->is_null() ? there : nullptr;
}

Yaml run_config_document(const ModelConfig& model, const RunConfigContext& context) {
  VIADUCT_CHECK(!context.save_path.empty());
  Yaml document = parse_yaml(kSections, "the sections of run_config.yaml");
  document.set("model", to_yaml(model));
  document.find("checkpoint")->set("save", context.save_path);
  if (!context.tokenizer_model) {
    document.set("tokenizer", Yaml());
    return document;
  }
  Yaml& tokenizer = *document.find("tokenizer");
  tokenizer.set("tokenizer_model", *context.tokenizer_model);
  Yaml arguments = context.hf_tokenizer_kwargs;
  if (context.trust_remote_code && !arguments.contains("trust_remote_code"))
    arguments.set("trust_remote_code", true);
  tokenizer.set("trust_remote_code", context.trust_remote_code);
  tokenizer.set("hf_tokenizer_kwargs", std::move(arguments));
  return document;
}

std::string run_config_yaml(const ModelConfig& model, const RunConfigContext& context) {
  return emit_yaml(run_config_document(model, context));
}

RunConfig run_config_from_yaml(Yaml document, std::string_view origin) {
  VIADUCT_USER_CHECK(document.is_mapping(), "{}: {}, not the mapping of sections that a run_config.yaml is", origin,
                     document.describe());
  RunConfig config;
  config.document = std::move(document);
  const Yaml* model = config.section("model");
  VIADUCT_USER_CHECK(model, "{}: no `model:` section", origin);
  config.model = model_config_from_yaml(*model, origin);
  config.tokenizer_type = value_in<std::string>(config, "tokenizer", "tokenizer_type", origin);
  config.tokenizer_model = value_in<std::string>(config, "tokenizer", "tokenizer_model", origin);
  config.trust_remote_code = value_in<bool>(config, "tokenizer", "trust_remote_code", origin).value_or(false);
  config.hf_model_id = config.model.hf_model_id;
  config.has_peft = config.section("peft") != nullptr;
  config.fully_parallel_save = value_in<bool>(config, "checkpoint", "fully_parallel_save", origin);
  config.save_optim = value_in<bool>(config, "checkpoint", "save_optim", origin);
  config.save_rng = value_in<bool>(config, "checkpoint", "save_rng", origin);
  return config;
}

RunConfig read_run_config(const Path& path) { return run_config_from_yaml(read_yaml_file(path), path.string()); }

}  // namespace viaduct::config
