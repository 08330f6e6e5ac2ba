#include "cli/train/chat.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <iostream>

#include "cli/command.h"
#include "cli/train/answer.h"
#include "cli/train/running_model.h"
#include "viaduct/core/error.h"
#include "viaduct/text/chat_template.h"

namespace viaduct::cli {

namespace {

Json message(const char* role, const std::string& content) {
  return Json::object({{"role", Json(std::string(role))}, {"content", Json(content)}});
}

class Conversation {
 public:
  Conversation(const ChatFlags& options, RunningModel& model, Ranks& ranks)
      : options_(options),
        model_(model),
        ranks_(ranks),
        template_(model.tokenizer(), text::choose_chat_template(model.tokenizer().facts(), chosen_name(options))) {
    request_.messages = Json::array();
    request_.add_generation_prompt = true;
    if (!options.system.empty()) request_.messages.items().push_back(message("system", options.system));
  }

  // Says something; what the model answers is printed as it comes.
  void say(const std::string& content) {
    request_.messages.items().push_back(message("user", content));
    const std::vector<int32_t> ids = template_.encode(request_).ids;
    const infer::GenerateOptions with = generate_options(options_.sampling, model_.stop_ids());
    infer::check_prompts({ids}, with.max_new_tokens, model_.arch());
    const auto chunks = model_.load();
    Answer answer(model_.tokenizer(), options_.sampling.stop, ranks_.first());
    const std::vector<infer::Generated> results =
        infer::generate(chunks, {ids}, with, [&](size_t, int32_t id) { return answer.push(id); });
    if (ranks_.first()) {
      answer.finish();
      fmt::print("\n");
      if (options_.show_ids) fmt::print("ids: {}\n", fmt::join(results[0].ids, " "));
      std::fflush(stdout);
    }
    request_.messages.items().push_back(message("assistant", answer_text(results[0].ids)));
  }

 private:
  static std::optional<std::string_view> chosen_name(const ChatFlags& options) {
    if (options.template_name.empty()) return std::nullopt;
    return options.template_name;
  }

  // The same on all ranks, also on those that saw no tokens come.
  std::string answer_text(const std::vector<int32_t>& ids) const {
    Answer answer(model_.tokenizer(), options_.sampling.stop, /*prints=*/false);
    for (const int32_t id : ids)
      if (!answer.push(id)) break;
    answer.finish();
    return answer.text();
  }

  const ChatFlags& options_;
  RunningModel& model_;
  Ranks& ranks_;
  text::ChatTemplate template_;
  text::ChatRequest request_;
};

int chat(const ChatFlags& options, Ranks& ranks) {
  RunningModel model(options.model, options.run, ranks);
  Conversation conversation(options, model, ranks);
  if (!options.messages.empty()) {
    for (const std::string& text : options.messages) conversation.say(text);
    return kDone;
  }
  model.load();
  const bool at_terminal = isatty(STDIN_FILENO) != 0;
  while (true) {
    if (ranks.first() && at_terminal) {
      fmt::print("> ");
      std::fflush(stdout);
    }
    const std::optional<std::string> line = ranks.shared_line([]() -> std::optional<std::string> {
      std::string text;
      return std::getline(std::cin, text) ? std::optional(text) : std::nullopt;
    });
    if (!line) return kDone;
    if (!line->empty()) conversation.say(*line);
  }
}

}  // namespace

int run(const ChatFlags& options) {
  return run_ranks({options.run.layout.parallel, options.run.cpu},
                   [&](Ranks& ranks) { return chat(options, ranks); });
}

}  // namespace viaduct::cli
