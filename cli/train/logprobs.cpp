#include "cli/train/logprobs.h"

#include <cmath>
#include <numeric>

#include "cli/command.h"
#include "cli/train/running_model.h"
#include "cli/train/token_list.h"
#include "viaduct/core/error.h"

namespace viaduct::cli {

namespace {

int logprobs(const LogprobsFlags& options, Ranks& ranks) {
  VIADUCT_USER_CHECK(options.texts.empty() != options.ids.empty(), "give --text TEXT or --ids LIST, and not both");
  RunningModel model(options.model, options.run, ranks);
  std::vector<std::vector<int32_t>> sequences;
  if (!options.ids.empty()) sequences.push_back(parse_token_list(options.ids));
  for (const std::string& text : options.texts)
    sequences.push_back(model.tokenizer().encode(text, !options.no_special_tokens));
  infer::check_prompts(sequences, 0, model.arch());
  const std::vector<std::vector<double>> values = infer::log_probabilities(model.load(), sequences);
  if (!ranks.first()) return kDone;
  Json list = Json::array();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const double sum = std::accumulate(values[i].begin(), values[i].end(), 0.0);
    const double perplexity = values[i].empty() ? 1.0 : std::exp(-sum / static_cast<double>(values[i].size()));
    if (options.json) {
      Json ids = Json::array(), logs = Json::array();
      for (const int32_t id : sequences[i]) ids.items().push_back(Json(static_cast<int64_t>(id)));
      for (const double value : values[i]) logs.items().push_back(Json(value));
      list.items().push_back(Json::object({{"ids", std::move(ids)},
                                           {"logprobs", std::move(logs)},
                                           {"sum", Json(sum)},
                                           {"perplexity", Json(perplexity)}}));
      continue;
    }
    for (size_t k = 0; k < sequences[i].size(); ++k) {
      const std::string token =
          options.ids.empty() ? shown_token(model.tokenizer(), sequences[i][k]) : std::string();
      fmt::print("{:>8}  {:>10}  {}\n", sequences[i][k],
                 k == 0 ? std::string("-") : fmt::format("{:.5f}", values[i][k - 1]), token);
    }
    fmt::print("sum {:.5f}, perplexity {:.5f}\n", sum, perplexity);
  }
  if (options.json) print_json(list);
  return kDone;
}

}  // namespace

int run(const LogprobsFlags& options) {
  return run_ranks({options.run.layout.parallel, options.run.cpu},
                   [&](Ranks& ranks) { return logprobs(options, ranks); });
}

}  // namespace viaduct::cli
