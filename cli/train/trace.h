// Trace: what a model computed for some tokens, module by module; and how two of them differ.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "viaduct/core/file.h"
#include "viaduct/nn/gpt_model.h"

namespace viaduct::cli {

/// All in float32 on the CPU, batch first.
struct Trace {
  at::Tensor logits;  // [b, s, v]
  /// (layer, module) -> [b, s, h], in the order in which they are computed: "self_attention", "mlp", "layer".
  std::map<std::pair<int, std::string>, at::Tensor> modules;
};

/// Runs the model on `tokens` [b, s]; every rank of the model calls it and gets the whole trace.
Trace trace_model(std::span<const std::shared_ptr<nn::GptModel>> chunks, const at::Tensor& tokens);

/// A file that tools/reference_logits made.
struct Reference {
  at::Tensor input_ids;  // [b, s] int64
  Trace trace;
};
/// UserError naming the file and the tensor that is missing or misshapen.
Reference read_reference(const Path& file);

/// How far two traces are apart.
struct TraceDifference {
  double max = 0;      // of the logits
  double mean = 0;     // of the logits' absolute differences
  double largest = 0;  // |logit| of the second
  double cosine = 1;   // the smallest of all positions
  bool finite = true;  // are the logits of both?
  /// The first module that differs by more than the tolerance, with its largest difference and value.
  struct Module {
    int layer;
    std::string name;
    double max;
    double largest;
  };
  std::optional<Module> first;

  /// The largest difference as a share of the largest logit.
  double share() const { return largest > 0 ? max / largest : max; }
  bool within(double tolerance) const { return finite && share() <= tolerance; }
};
/// UserError when their logits differ in shape. Modules that only one of them has are left out.
TraceDifference compare_traces(const Trace& a, const Trace& b, double tolerance);

}  // namespace viaduct::cli
