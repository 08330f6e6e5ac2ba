// Shows Python tests what the config layer makes of YAML files. Commands and files come on standard input, one a
// line:
//   emit FILE        the document written again
//   json FILE        the document as JSON in which every scalar is [type, text]
//   model FILE       the `model:` section, read as ModelConfig and written again
//   config FILE      a whole run_config.yaml made anew from the model section and the file's paths
//   fold WIDTH FILE  the document written with another line width
// Each answer is "ok BYTES\n" or "error BYTES\n" and that many bytes.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <sstream>

#include "viaduct/config/run_config.h"
#include "viaduct/config/yaml.h"
#include "viaduct/core/json.h"

namespace {

using viaduct::Json;
using viaduct::config::Yaml;

Json typed(const Yaml& node) {
  auto scalar = [](const char* type, std::string text) { return Json::array({Json(type), Json(std::move(text))}); };
  switch (node.kind()) {
    case Yaml::Kind::kNull: return scalar("NoneType", "None");
    case Yaml::Kind::kBool: return scalar("bool", node.as_bool() ? "True" : "False");
    case Yaml::Kind::kInt:
      return scalar("int", node.is_big_integer() ? node.big_digits() : std::to_string(node.as_int()));
    case Yaml::Kind::kFloat: return scalar("float", viaduct::python_repr(node.as_double()));
    case Yaml::Kind::kString: return scalar("str", node.as_string());
    case Yaml::Kind::kSequence: {
      std::vector<Json> items;
      for (const Yaml& item : node.items()) items.push_back(typed(item));
      return Json::array({Json("list"), Json::array(std::move(items))});
    }
    case Yaml::Kind::kMapping:
    case Yaml::Kind::kSet: break;
  }
  std::vector<Json> members;
  for (const auto& [key, value] : node.members()) members.push_back(Json::array({typed(key), typed(value)}));
  return Json::array({Json(node.is_set() ? "set" : "dict"), Json::array(std::move(members))});
}

std::string answer(const std::string& line) {
  std::istringstream words(line);
  std::string command, file;
  words >> command;
  viaduct::config::YamlStyle style;
  if (command == "fold") words >> style.width;
  std::getline(words >> std::ws, file);
  if (command == "emit" || command == "fold") return emit_yaml(viaduct::config::read_yaml_file(file), style);
  if (command == "json") return typed(viaduct::config::read_yaml_file(file)).dump();
  const viaduct::config::RunConfig config = viaduct::config::read_run_config(file);
  if (command == "model") return emit_yaml(to_yaml(config.model));
  viaduct::config::RunConfigContext context;
  context.save_path = config.document.at("checkpoint").at("save").as_string();
  context.tokenizer_model = config.tokenizer_model;
  context.trust_remote_code = config.trust_remote_code;
  if (const Yaml* tokenizer = config.section("tokenizer"))
    context.hf_tokenizer_kwargs = tokenizer->at("hf_tokenizer_kwargs");
  return run_config_yaml(config.model, context);
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::string text;
    const char* verdict = "ok";
    try {
      text = answer(line);
    } catch (const viaduct::UserError& error) {
      verdict = "error";
      text = error.what();
    }
    std::cout << verdict << ' ' << text.size() << '\n' << text << std::flush;
  }
}
