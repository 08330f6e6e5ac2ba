// The rope scalings of GGUF files.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

#include "viaduct/models/gguf_architecture.h"
#include "viaduct/models/gguf_source.h"

namespace viaduct::models {

namespace {

using formats::GgufFile;
using formats::StoredTensor;

// llama.cpp's converter stores Llama 3.1's scaling as one factor for each rotary pair. They are a function of four
// numbers, of which only `factor` has ever differed between models.
std::optional<Json> scaling_of_factors(const GgufFile& file, double theta, int64_t head_dim) {
  const StoredTensor* tensor = file.find(kGgufRopeFactors);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->dtype != DType::kF32 || tensor->shape != Shape{head_dim / 2} || head_dim < 2)
    fail_gguf(file, "tensor {} is {} {}, expected F32 [{}]", kGgufRopeFactors, tensor->dtype, tensor->shape,
              head_dim / 2);
  const std::vector<std::byte> bytes = read_tensor(file, *tensor);
  std::vector<float> factors(bytes.size() / sizeof(float));
  std::memcpy(factors.data(), bytes.data(), bytes.size());

  constexpr double kLow = 1, kHigh = 4, kOriginal = 8192;
  const double factor = std::round(*std::max_element(factors.begin(), factors.end()));
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wave = 2 * std::numbers::pi * std::pow(theta, 2.0 * double(i) / double(head_dim));
    double expected = 1;
    if (wave > kOriginal / kLow) {
      expected = factor;
    } else if (wave >= kOriginal / kHigh) {
      const double smooth = (kOriginal / wave - kLow) / (kHigh - kLow);
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected))
      fail_gguf(file,
                "tensor {} does not hold the rope factors of Llama 3.1 with factor {}: element {} is {}, expected "
                "{}",
                kGgufRopeFactors, factor, i, factors[i], expected);
  }
  if (factor == 1) return Json();
  return Json::object({{"factor", factor},
                       {"high_freq_factor", kHigh},
                       {"low_freq_factor", kLow},
                       {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)},
                       {"rope_type", "llama3"}});
}

}  // namespace

Json gguf_rope_scaling(const GgufKeys& keys, double theta, int64_t head_dim) {
  if (auto scaling = scaling_of_factors(keys.file(), theta, head_dim)) return std::move(*scaling);
  const std::string type = keys.text("rope.scaling.type").value_or("none");
  const std::optional<double> factor = keys.number("rope.scaling.factor");
  // Files from before 2024 have rope.scale_linear instead.
  const std::optional<double> linear = type == "linear" ? factor : keys.number("rope.scale_linear");
  if (type != "none" && type != "linear")
    fail_gguf(keys.file(), "{} is {}; linear and none can be read", keys.full("rope.scaling.type"), type);
  if (!linear || *linear == 1.0 || *linear == 0.0) return nullptr;
  return Json::object({{"factor", *linear}, {"rope_type", "linear"}});
}

Json gguf_yarn(const GgufKeys& keys) {
  const std::string type = keys.text("rope.scaling.type").value_or("none");
  if (type != "yarn")
    fail_gguf(keys.file(), "{} is {}; this architecture has yarn", keys.full("rope.scaling.type"), type);
  return Json::object(
      {{"beta_fast", keys.number("rope.scaling.yarn_beta_fast").value_or(32.0)},
       {"beta_slow", keys.number("rope.scaling.yarn_beta_slow").value_or(1.0)},
       {"factor", keys.required_number("rope.scaling.factor")},
       {"original_max_position_embeddings", keys.required_size("rope.scaling.original_context_length")},
       {"rope_type", "yarn"}});
}

}  // namespace viaduct::models
