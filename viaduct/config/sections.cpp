#include "viaduct/config/sections.h"

#include <array>

#include "viaduct/config/mixed_precision.h"

namespace viaduct::config {
namespace {

struct Signal {
  std::string_view name;
  int number;
};
constexpr std::array<Signal, 5> kSignals = {
    {{"SIGHUP", 1}, {"SIGINT", 2}, {"SIGUSR1", 10}, {"SIGUSR2", 12}, {"SIGTERM", 15}}};

template <auto Member>
constexpr auto with_choices(std::string_view name, std::string_view choices) {
  auto field = make_field<Member>(name, 0);
  field.choices = choices;
  return field;
}

template <auto Member>
constexpr auto only_for_class(std::string_view name, std::string_view class_name) {
  auto field = make_field<Member>(name, 0);
  field.only_for = class_name;
  return field;
}

}  // namespace

bool names_class(std::string_view target, std::string_view classes) {
  const std::string_view name = last_word(target);
  for (size_t at = 0; at < classes.size();) {
    const size_t end = std::min(classes.find(' ', at), classes.size());
    if (classes.substr(at, end - at) == name) return true;
    at = end + 1;
  }
  return false;
}

std::string full_target(std::string_view target, std::string_view sibling) {
  if (target.find('.') != std::string_view::npos) return std::string(target);
  return std::string(sibling.substr(0, sibling.rfind('.') + 1)) + std::string(target);
}

const std::string* target_in(const Yaml& node) {
  const Yaml* target = node.find("_target_");
  return target && target->is_string() ? &target->as_string() : nullptr;
}

void check_keys(const Yaml& node, const std::function<std::string(std::string_view key)>& where) {
  for (const auto& [key, value] : node.members()) {
    if (!key.is_string())
      throw UserError(fmt::format("{}: a key is {}, not a string", where(python_text(key)), key.describe()));
    if (key.as_string() == "_target_" && !value.is_string())
      throw_wrong_type(where("_target_"), "the path of a class", value);
  }
}

const OldName* find_old_name(std::string_view target, std::string_view key) {
  static constexpr OldName kOldNames[] = {
      {"DistributedInitConfig", "lazy_init", "lazy_mpu_init", ""},
      {"GPTDatasetConfig", "sequence_length", "seq_length", ""},
      {"GPTSFTDatasetConfig", "packed_sequence_specs", "offline_packing_specs", "enable_offline_packing"},
  };
  for (const OldName& row : kOldNames)
    if (row.class_name == last_word(target) && row.old_name == key) return &row;
  return nullptr;
}

PyEnum signal_named(std::string_view name) {
  for (const Signal& signal : kSignals)
    if (signal.name == name) return {Yaml(signal.number), std::string(name), "signal.Signals"};
  throw UserError(fmt::format("'{}' is no signal for this (SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM)", name));
}

bool Codec<Blend>::accepts(const Yaml& node) {
  if (!node.is_sequence() || node.items().size() != 2) return false;
  return Codec<Strings>::accepts(node.items()[0]) && Codec<std::optional<Numbers>>::accepts(node.items()[1]);
}
Blend Codec<Blend>::decode(const Yaml& node) {
  return {decode_part<Strings>(node.items()[0], {}), decode_part<std::optional<Numbers>>(node.items()[1], {})};
}
Yaml Codec<Blend>::encode(const Blend& blend) {
  return Yaml::sequence(
      {Codec<Strings>::encode(blend.paths), Codec<std::optional<Numbers>>::encode(blend.weights)});
}
std::string Codec<Blend>::expects() { return "a blend ([[paths], [weights] or null])"; }

#define SECTION(Type, target, classes)          \
  template <>                                   \
  std::span<const Field<Type>> fields<Type>() { \
    using Struct = Type;                        \
    static const std::vector<Field<Struct>> kFields = {
#define F(type, name, ...) make_field<&Struct::name>(#name, 0),
#define C(type, name, choices, ...) with_choices<&Struct::name>(#name, choices),
#define O(only_for, type, name, ...) only_for_class<&Struct::name>(#name, only_for),
#define END       \
  }               \
  ;               \
  return kFields; \
  }
#include "viaduct/config/section_groups.inc"
#include "viaduct/config/sft_parts.inc"

}  // namespace viaduct::config
