#include "python/provider.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "viaduct/config/reflection.h"
#include "viaduct/core/error.h"

namespace nb = nanobind;

namespace viaduct::python {

namespace {

using config::ModelConfig;
using config::Yaml;

nb::object to_python(const Yaml& node) {
  switch (node.kind()) {
    case Yaml::Kind::kNull: return nb::none();
    case Yaml::Kind::kBool: return nb::cast(node.as_bool());
    case Yaml::Kind::kInt: return nb::cast(node.as_int());
    case Yaml::Kind::kFloat: return nb::cast(node.as_double());
    case Yaml::Kind::kString: return nb::cast(node.as_string());
    case Yaml::Kind::kSequence: {
      nb::list items;
      for (const Yaml& item : node.items()) items.append(to_python(item));
      return items;
    }
    case Yaml::Kind::kMapping:
    case Yaml::Kind::kSet: break;
  }
  nb::dict members;
  for (const auto& [key, value] : node.members()) members[to_python(key)] = to_python(value);
  return members;
}

Yaml to_yaml(const nb::handle& value, const std::string& field) {
  if (value.is_none()) return Yaml();
  if (nb::isinstance<nb::bool_>(value)) return Yaml(nb::cast<bool>(value));
  if (nb::isinstance<nb::int_>(value)) return Yaml(nb::cast<int64_t>(value));
  if (nb::isinstance<nb::float_>(value)) return Yaml(nb::cast<double>(value));
  if (nb::isinstance<nb::str>(value)) return Yaml(nb::cast<std::string>(value));
  if (nb::isinstance<nb::list>(value) || nb::isinstance<nb::tuple>(value)) {
    Yaml items = Yaml::sequence();
    for (const nb::handle item : value) items.items().push_back(to_yaml(item, field));
    return items;
  }
  if (nb::isinstance<nb::dict>(value)) {
    Yaml members = Yaml::mapping();
    for (const auto [key, item] : nb::borrow<nb::dict>(value))
      members.set(nb::cast<std::string>(nb::str(key)), to_yaml(item, field));
    return members;
  }
  // torch.bfloat16 and the like print as their own names.
  return Yaml(nb::cast<std::string>(nb::str(value)));
}

// A type or a function, which YAML writes as a mapping, may be given by its name.
void set(Provider& provider, const std::string& name, const nb::object& value) {
  ModelConfig& config = provider.config;
  const config::Field<ModelConfig>& field = config::field_at<ModelConfig>(name, "the provider");
  Yaml node = to_yaml(value, name);
  if (node.is_string()) {
    const Yaml now = field.get(config);
    if (name == "attention_backend") {
      config.set_attention_backend(node.as_string());
      return;
    }
    if (now.is_mapping() && now.contains("_call_")) {
      Yaml named = now;
      named.set("_target_", node);
      node = std::move(named);
    }
  }
  if (name == "params_dtype") {
    const Yaml* target = node.find("_target_");
    const auto dtype = target && target->is_string() ? dtype_from_torch_name(target->as_string()) : std::nullopt;
    VIADUCT_USER_CHECK(dtype, "params_dtype: {} is no type", node.describe());
    config.set_params_dtype(*dtype);
    return;
  }
  field.set(config, node, "the provider's " + name);
}

}  // namespace

void bind_provider(nb::module_& module) {
  nb::class_<Provider>(module, "Provider")
      .def("copy", [](const Provider& provider) { return provider; })
      .def_prop_ro("target", [](const Provider& provider) { return provider.config.target; })
      .def("names",
           [](const Provider&) {
             std::vector<std::string> names;
             for (const auto& field : config::fields<ModelConfig>()) names.emplace_back(field.name);
             return names;
           })
      .def("has", [](const Provider&,
                     const std::string& name) { return config::find_field<ModelConfig>(name) != nullptr; })
      .def("get",
           [](const Provider& provider, const std::string& name) {
             return to_python(config::field_at<ModelConfig>(name, "the provider").get(provider.config));
           })
      .def("set", &set);
}

}  // namespace viaduct::python
