#include "viaduct/models/registry.h"

#include <fmt/ranges.h>

#include <string>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/decoder.h"

namespace viaduct::models {

#define VIADUCT_FAMILY(name) Family name##_family();
#include "generated/families.inc"
#undef VIADUCT_FAMILY

namespace {

std::vector<Family>& all_families() {
  static std::vector<Family> families = {
#define VIADUCT_FAMILY(name) name##_family(),
#include "generated/families.inc"
#undef VIADUCT_FAMILY
  };
  return families;
}

}  // namespace

const std::vector<Family>& families() { return all_families(); }

void register_family(Family family) {
  for (const Family& known : families())
    VIADUCT_USER_CHECK(known.name != family.name && known.architecture != family.architecture,
                       "the model family \"{}\" ({}) cannot be registered: there is \"{}\" ({})", family.name,
                       family.architecture, known.name, known.architecture);
  VIADUCT_USER_CHECK(
      family.read_config && family.write_config && family.set_provider && family.recognises && family.read_provider,
      "the model family \"{}\" lacks one of its functions", family.name);
  all_families().push_back(std::move(family));
}

const Family& family_named(std::string_view name) {
  std::vector<std::string> names;
  for (const Family& family : families()) {
    if (family.name == name) return family;
    names.emplace_back(family.name);
  }
  const auto near = nearest(name, names);
  throw UserError(fmt::format("there is no model family \"{}\"{}; there are {}", name,
                              near ? fmt::format(" (did you mean \"{}\"?)", *near) : "", fmt::join(names, ", ")));
}

const Family* find_family(const HfConfig& config) {
  for (const Family& family : families())
    if (family.claims && family.claims(config)) return &family;
  const std::string architecture = config.architecture();
  for (const Family& family : families())
    if (family.architecture == architecture) return &family;
  if (!architecture.empty()) return nullptr;
  const std::string type = config.model_type();
  for (const Family& family : families())
    if (family.model_type == type) return &family;
  return nullptr;
}

const Family& family_of(const HfConfig& config) {
  if (const Family* family = find_family(config)) return *family;
  std::vector<std::string> known;
  for (const Family& family : families()) known.emplace_back(family.architecture);
  const std::string name = config.architecture();
  const auto near = nearest(name, known);
  config.fail(fmt::format(
      "the architecture \"{}\" is not supported{}. Supported are: {}. docs/adding-a-model.md says how to add one",
      name.empty() ? config.model_type() : name, near ? fmt::format(" (did you mean \"{}\"?)", *near) : "",
      fmt::join(known, ", ")));
}

const Family& family_of(const config::ModelConfig& provider) {
  for (const Family& family : families())
    if (family.recognises(provider)) return family;
  throw UserError(
      fmt::format("no supported model family has a provider like {}; give --reference with the Hugging "
                  "Face model that the checkpoint came from",
                  provider.target));
}

ArchSpec read_arch(const HfConfig& config) {
  const Family& family = family_of(config);
  ArchSpec arch = family.read_config(config);
  arch.family = family.name;
  try {
    arch.validate();
  } catch (const UserError& error) {
    config.fail(error.what());
  }
  return arch;
}

namespace {

// A provider can describe models that no Hugging Face class has: LayerNorm where the class has RMSNorm, biases.
// They have parameters for which the family's table has no row.
void check_covered(const ArchSpec& arch, const Family& family) {
  std::unordered_set<std::string> seen;
  for (const Parameter& parameter : megatron_parameters(arch)) {
    if (!seen.insert(name_pattern(parameter)).second) continue;
    try {
      family.table(arch.form).match(arch, parameter);
    } catch (const InternalError&) {
      throw UserError(fmt::format(
          "the configuration describes a model with {}, for which {} has no tensor; it fits no supported "
          "model family. If it is of another one, give --reference with its Hugging Face model",
          parameter.name, family.architecture));
    }
  }
}

}  // namespace

ArchSpec read_arch(const config::ModelConfig& provider) {
  const Family& family = family_of(provider);
  ArchSpec arch = read_decoder_provider(provider);
  arch.family = family.name;
  family.read_provider(provider, arch);
  arch.validate();
  check_covered(arch, family);
  return arch;
}

namespace {

// Python keeps an integer that config.json has for a float, and upstream's YAML shows it.
void keep_integers(const Json& config, config::ModelConfig& provider) {
  const Json& text = language_part(config);
  const auto keep = [](const Json* value, config::Number& number) {
    if (value && value->is_integer() && value->as_double() == number) number = config::Number(value->as_int());
  };
  keep(text.find("attention_dropout"), provider.attention_dropout);
  auto* base = std::get_if<config::Number>(&provider.rotary_base);
  if (!base) return;
  keep(text.find("rope_theta"), *base);
  if (const Json* rope = text.find("rope_parameters"); rope && rope->is_object())
    keep(rope->find("rope_theta"), *base);
}

}  // namespace

config::ModelConfig provider_for(const ArchSpec& arch, const std::optional<Json>& config) {
  const Family& family = family_named(arch.family);
  config::ModelConfig provider;
  set_decoder_provider(arch, provider);
  family.set_provider(arch, provider);
  if (config) keep_integers(*config, provider);
  if (family.complete_provider)
    family.complete_provider({config ? *config : hf_config_for(arch), "config.json"}, arch, provider);
  return provider;
}

Json hf_config_for(const ArchSpec& arch) {
  const Family& family = family_named(arch.family);
  Json config = write_decoder_config(arch);
  config.set("architectures", Json::array({Json(family.architecture)}));
  config.set("model_type", Json(family.model_type));
  family.write_config(arch, config);
  return config;
}

Json hf_config_for(const ArchSpec& arch, const config::ModelConfig& provider) {
  Json config = hf_config_for(arch);
  const Family& family = family_named(arch.family);
  if (family.complete_config) family.complete_config(provider, config);
  return config;
}

}  // namespace viaduct::models
