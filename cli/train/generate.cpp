#include "cli/train/generate.h"

#include <fstream>

#include "cli/command.h"
#include "cli/train/answer.h"
#include "cli/train/running_model.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

std::vector<std::string> read_prompts(const GenerateFlags& options) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompt_file.empty()) {
    std::ifstream file(options.prompt_file);
    VIADUCT_USER_CHECK(file.good(), "cannot read {}", options.prompt_file);
    int number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      if (line.empty()) continue;
      prompts.push_back(line.starts_with('"')
                            ? Json::parse(line, fmt::format("{}:{}", options.prompt_file, number)).as_string()
                            : line);
    }
  }
  VIADUCT_USER_CHECK(!prompts.empty(), "there is no prompt: give --prompt TEXT or --prompts FILE");
  return prompts;
}

std::string_view reason_name(const infer::Generated& generated, const Answer& answer) {
  if (answer.stopped()) return "stop_string";
  return generated.reason == infer::FinishReason::kStopToken ? "stop_token" : "length";
}

Json json_ids(const std::vector<int32_t>& ids) {
  Json list = Json::array();
  for (const int32_t id : ids) list.items().push_back(Json(static_cast<int64_t>(id)));
  return list;
}

std::string speed(int64_t tokens, double seconds) {
  return seconds > 0 ? fmt::format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds)
                     : std::string("no time");
}

int generate(const GenerateFlags& options, Ranks& ranks) {
  const std::vector<std::string> prompts = read_prompts(options);
  RunningModel model(options.model, options.run, ranks);
  const text::Tokenizer& tokenizer = model.tokenizer();
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& prompt : prompts) ids.push_back(tokenizer.encode(prompt, !options.no_special_tokens));
  infer::check_prompts(ids, options.sampling.max_new_tokens, model.arch());
  infer::GenerateOptions generate_with = generate_options(options.sampling, model.stop_ids());
  generate_with.use_cache = !options.no_cache;

  const bool streams = prompts.size() == 1 && !options.json && ranks.first();
  std::vector<Answer> answers;
  for (size_t i = 0; i < prompts.size(); ++i) answers.emplace_back(tokenizer, options.sampling.stop, streams);
  const auto chunks = model.load();
  infer::GenerateTimes times;
  const std::vector<infer::Generated> results = infer::generate(
      chunks, ids, generate_with, [&](size_t sequence, int32_t id) { return answers[sequence].push(id); }, &times);
  if (!ranks.first()) return kDone;
  for (Answer& answer : answers) answer.finish();
  if (options.json) {
    Json list = Json::array();
    for (size_t i = 0; i < prompts.size(); ++i)
      list.items().push_back(Json::object({{"prompt", Json(prompts[i])},
                                           {"prompt_ids", json_ids(ids[i])},
                                           {"ids", json_ids(results[i].ids)},
                                           {"text", Json(answers[i].text())},
                                           {"reason", Json(std::string(reason_name(results[i], answers[i])))}}));
    print_json(Json::object({{"results", std::move(list)},
                             {"prompt_tokens", Json(times.prompt_tokens)},
                             {"prefill_seconds", Json(times.prefill_seconds)},
                             {"decoded_tokens", Json(times.decoded_tokens)},
                             {"decode_seconds", Json(times.decode_seconds)}}));
    return kDone;
  }
  if (streams) {
    fmt::print("\n");
  } else {
    for (size_t i = 0; i < prompts.size(); ++i) fmt::print("--- {}\n{}\n", prompts[i], answers[i].text());
  }
  ranks.say(fmt::format("prompt: {} tokens in {} ({}); answer: {} tokens in {} ({})", times.prompt_tokens,
                        human_seconds(times.prefill_seconds), speed(times.prompt_tokens, times.prefill_seconds),
                        times.decoded_tokens, human_seconds(times.decode_seconds),
                        speed(times.decoded_tokens, times.decode_seconds)));
  return kDone;
}

}  // namespace

int run(const GenerateFlags& options) {
  return run_ranks({options.run.layout.parallel, options.run.cpu},
                   [&](Ranks& ranks) { return generate(options, ranks); });
}

}  // namespace viaduct::cli
