// HfConfig: reads fields of a Hugging Face config.json, in the forms of transformers 4 and 5, and says what is
// wrong with the file, key by key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// The part of a config.json that describes the language model: an object inside of it ("text_config",
/// "llm_config") where there is one, else all of it.
Json& language_part(Json& config);
const Json& language_part(const Json& config);

/// A config.json with the name of its file.
class HfConfig {
 public:
  /// `origin` names the file in messages.
  HfConfig(Json document, std::string origin) : document_(std::move(document)), origin_(std::move(origin)) {}
  /// The file at `path`; UserError when it is no JSON object.
  static HfConfig read(const std::string& path);

  /// All of the file.
  const Json& document() const { return document_; }
  /// The name of the file in messages.
  const std::string& origin() const { return origin_; }

  /// False for an absent key and for null.
  bool has(std::string_view key) const;
  /// UserError naming file and key when the key is absent or of another type.
  int64_t integer(std::string_view key) const;
  /// The same for any number.
  double number(std::string_view key) const;

  /// The fallback is what transformers' class assumes for an absent key.
  int64_t integer_or(std::string_view key, int64_t fallback) const;
  double number_or(std::string_view key, double fallback) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  std::string text_or(std::string_view key, std::string fallback) const;

  /// None for an absent key and for null; UserError for another type.
  std::optional<int64_t> optional_integer(std::string_view key) const;
  std::optional<double> optional_number(std::string_view key) const;

  /// architectures[0], or the class that auto_map names for causal language models; empty when there is neither.
  std::string architecture() const;
  /// "model_type"; empty when it is absent.
  std::string model_type() const { return text_or("model_type", ""); }
  /// A configuration inside of this one ("text_config"); UserError when it is absent or no object.
  HfConfig child(std::string_view key) const;
  /// A list of integers; empty when the key is absent or null.
  std::vector<int64_t> integers(std::string_view key) const;
  /// "dtype" (transformers 5) or "torch_dtype", else the text_config's; none when the file says nothing.
  std::optional<DType> dtype() const;
  /// rope_parameters (transformers 5), or rope_theta with rope_scaling; the type "mrope" of older files is the
  /// default one with sections. UserError for a scaling that is not known here.
  RopeSpec rope(double default_theta) const;

  /// Throws a UserError "<file>: <message>".
  [[noreturn]] void fail(const std::string& message) const;

 private:
  template <class Get>
  auto get(std::string_view key, Get get) const;

  Json document_;
  std::string origin_;
};

}  // namespace viaduct::models
