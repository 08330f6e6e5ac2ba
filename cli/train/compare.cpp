#include "cli/train/compare.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/train/running_model.h"
#include "cli/train/token_list.h"
#include "cli/train/trace.h"
#include "viaduct/core/error.h"

namespace viaduct::cli {

namespace {

// Of float32 sums in another order, and of bf16's rounding in other places (docs/running.md).
constexpr double kFloatTolerance = 4e-6;
constexpr double kHalfTolerance = 0.02;

struct Ran {
  std::string name;
  Trace trace;
  c10::ScalarType type;
};

at::Tensor as_tokens(const std::vector<int32_t>& ids) {
  return at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
}

// The tokens that all models get: the reference's own, or those of the prompt by A's tokenizer.
at::Tensor chosen_tokens(const CompareFlags& options, RunningModel& model,
                         const std::optional<Reference>& reference) {
  if (reference) return reference->input_ids;
  if (!options.ids.empty()) return as_tokens(parse_token_list(options.ids));
  return as_tokens(model.tokenizer().encode(options.prompt));
}

void check_tokens(const at::Tensor& tokens, const models::ArchSpec& arch) {
  std::vector<std::vector<int32_t>> rows;
  for (int64_t i = 0; i < tokens.size(0); ++i) {
    const at::Tensor row = tokens[i].contiguous();
    rows.emplace_back(row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + row.size(0));
  }
  infer::check_prompts(rows, 0, arch);
}

Json json_difference(const TraceDifference& difference, double tolerance) {
  Json json = Json::object();
  json.set("within", difference.within(tolerance));
  json.set("tolerance", tolerance);
  json.set("max", difference.max);
  json.set("mean", difference.mean);
  json.set("largest_logit", difference.largest);
  json.set("share", difference.share());
  json.set("cosine", difference.cosine);
  if (difference.first)
    json.set("first_difference", Json::object({{"layer", Json(static_cast<int64_t>(difference.first->layer))},
                                               {"module", Json(difference.first->name)},
                                               {"max", Json(difference.first->max)},
                                               {"largest", Json(difference.first->largest)}}));
  return json;
}

class Report {
 public:
  Report(const CompareFlags& options, const text::Tokenizer* tokenizer)
      : options_(options), tokenizer_(tokenizer) {}

  // The likeliest tokens behind the last position of the first sequence.
  void top(const Ran& ran) {
    const at::Tensor last = ran.trace.logits[0][ran.trace.logits.size(1) - 1];
    const auto [values, ids] = last.topk(std::min<int64_t>(5, last.size(0)));
    Json list = Json::array();
    if (!options_.json) fmt::print("{}\n", ran.name);
    for (int64_t i = 0; i < ids.size(0); ++i) {
      const auto id = ids[i].item<int64_t>();
      const double value = values[i].item<double>();
      const std::string token = tokenizer_ ? shown_token(*tokenizer_, static_cast<int32_t>(id)) : std::string();
      if (!options_.json) fmt::print("  {:>8}  {:>12.6f}  {}\n", id, value, token);
      list.items().push_back(Json::object({{"id", Json(id)}, {"logit", Json(value)}, {"token", Json(token)}}));
    }
    tops_.items().push_back(Json::object({{"of", Json(ran.name)}, {"top", std::move(list)}}));
  }

  void pair(const Ran& a, const Ran& b, double tolerance) {
    const TraceDifference difference = compare_traces(a.trace, b.trace, tolerance);
    within_ &= difference.within(tolerance);
    if (options_.json) {
      Json json = json_difference(difference, tolerance);
      json.set("a", a.name);
      json.set("b", b.name);
      pairs_.items().push_back(std::move(json));
      return;
    }
    fmt::print("{} and {}: {}\n", a.name, b.name, difference.within(tolerance) ? "the same" : "DIFFERENT");
    fmt::print(
        "  logits: largest difference {:.3g} ({:.3g} of the largest logit {:.4g}; tolerance {:.3g}), mean {:.3g}, "
        "smallest cosine {:.9f}{}\n",
        difference.max, difference.share(), difference.largest, tolerance, difference.mean, difference.cosine,
        difference.finite ? "" : ", and NOT ALL ARE FINITE");
    if (difference.first) {
      fmt::print("  first difference: layer {}, {}: {:.3g} of {:.4g}\n", difference.first->layer,
                 difference.first->name, difference.first->max, difference.first->largest);
    } else if (!b.trace.modules.empty()) {
      fmt::print("  no layer differs by more\n");
    }
  }

  int finish() {
    if (options_.json)
      print_json(
          Json::object({{"within", Json(within_)}, {"top", std::move(tops_)}, {"pairs", std::move(pairs_)}}));
    return within_ ? kDone : kDifferent;
  }

 private:
  const CompareFlags& options_;
  const text::Tokenizer* tokenizer_;
  bool within_ = true;
  Json tops_ = Json::array(), pairs_ = Json::array();
};

int compare(const CompareFlags& options, Ranks& ranks) {
  VIADUCT_USER_CHECK(!options.b.empty() || !options.reference.empty(),
                     "there is nothing to compare with: give a second model, or --reference-logits FILE");
  std::optional<Reference> reference;
  if (!options.reference.empty()) reference = read_reference(options.reference);
  std::vector<Ran> ran;
  at::Tensor tokens;
  std::unique_ptr<text::Tokenizer> tokenizer;
  for (const std::string& name : {options.a, options.b}) {
    if (name.empty()) continue;
    RunningModel model(name, options.run, ranks);  // one at a time is in memory
    if (!tokens.defined()) {
      tokens = chosen_tokens(options, model, reference);
      if (options.ids.empty() && !reference) tokenizer = tokenizer_of(model.source());
    }
    check_tokens(tokens, model.arch());
    ran.push_back({name, trace_model(model.load(), tokens), model.context().dtype});
  }
  if (!ranks.first()) return ranks.shared_code(kDone);
  Report report(options, tokenizer.get());
  for (const Ran& it : ran) report.top(it);
  if (ran.size() == 2) report.pair(ran[0], ran[1], options.tolerance);
  if (reference) {
    const Ran theirs{options.reference, std::move(reference->trace), at::kFloat};
    report.top(theirs);
    for (const Ran& it : ran) {
      const double usual = it.type == at::kFloat || it.type == at::kDouble ? kFloatTolerance : kHalfTolerance;
      report.pair(it, theirs, options.tolerance > 0 ? options.tolerance : usual);
    }
  }
  return ranks.shared_code(report.finish());
}

}  // namespace

int run(const CompareFlags& options) {
  return run_ranks({options.run.layout.parallel, options.run.cpu},
                   [&](Ranks& ranks) { return compare(options, ranks); });
}

}  // namespace viaduct::cli
