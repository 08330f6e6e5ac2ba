#include "viaduct/text/chat_template.h"

#include <gmock/gmock.h>

#include "tests/unit/text/tokenizer_folder.h"

namespace viaduct::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::string& source, ChatRequest request = {}) {
  TokenizerFolder folder;
  folder.write("tokenizer.json", kSmallTokenizer);
  const auto tokenizer = open_tokenizer(folder.path());
  if (request.messages.is_null())
    request.messages = Json::parse(R"([{"role": "user", "content": "a"}])", "messages");
  try {
    ChatTemplate(*tokenizer, source).render(request);
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
    return error.what();
  }
  ADD_FAILURE() << "no error: " << source.substr(0, 60);
  return "";
}

TEST(ChatTemplate, marks_what_the_model_said) {
  TokenizerFolder folder;
  folder.write("tokenizer.json", kSmallTokenizer);
  folder.write("chat_template.jinja",
               "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% else %}"
               "{% generation %}{{ m.content }}{% endgeneration %} {% endif %}{% endfor %}");
  const auto tokenizer = open_tokenizer(folder.path());
  const ChatTemplate chat(*tokenizer, choose_chat_template(tokenizer->facts()));
  const ChatTokens tokens = chat.encode(
      {.messages = Json::parse(
           R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b a"}, {"role": "user", "content": "b"}])",
           "m")});
  EXPECT_EQ(tokens.text, "a b a b ");
  EXPECT_THAT(tokens.ids, ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(tokens.assistant_mask, ElementsAre(false, true, true, false));
  EXPECT_TRUE(chat.has_generation());
}

TEST(ChatTemplate, what_is_wrong_names_the_line) {
  EXPECT_THAT(error_of("a\n{% if %}"), HasSubstr("2"));
  EXPECT_THAT(error_of("{% endfor %}"), HasSubstr("endfor"));
  EXPECT_THAT(error_of("{{ raise_exception('roles must alternate') }}"), HasSubstr("roles must alternate"));
  EXPECT_THAT(error_of("{{ messages[0].a.b }}"), HasSubstr("undefined"));
  EXPECT_THAT(error_of("{{ nothing() }}"), HasSubstr("nothing"));
  EXPECT_THAT(error_of("{% include 'x' %}"), HasSubstr("x"));
}

TEST(ChatTemplate, ends_what_runs_or_grows_without_end) {
  error_of("{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}");
  error_of(
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}");
  error_of(
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  error_of("{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  error_of("{{ 'a' * 10000000000 }}");
  error_of("{{ ([''] * 1000000000) | join }}");
  error_of("{{ 'x'.center(1000000000) }}");
  error_of("{{ '%1000000000d' % 3 }}");
  error_of("{{ '{:1000000000}'.format(3) }}");
  error_of("{{ ('a' * 15000000).replace('a', 'aaaa') }}");
  error_of("{{ [1] | batch(1000000000, 0) | list }}");
  error_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  error_of("{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}");
  error_of("{{ " + std::string(100000, '[') + "1" + std::string(100000, ']') + " }}");
  error_of(std::string(2 << 20, 'a'));
}

TEST(ChatTemplate, refuses_impossible_requests) {
  const Json one = Json::parse(R"([{"role": "user", "content": "a"}])", "messages");
  EXPECT_THAT(error_of("{{ 1 }}", {.messages = Json::array()}), HasSubstr("at least one"));
  EXPECT_THAT(error_of("{{ 1 }}", {.messages = one, .tools = Json("x")}), HasSubstr("lists"));
  EXPECT_THAT(error_of("x", {.messages = one, .continue_final_message = "content"}), HasSubstr("does not look at"));
  EXPECT_THAT(error_of("{# content #}", {.messages = one, .continue_final_message = "content"}),
              HasSubstr("leaves it out"));
  EXPECT_THAT(error_of("{{ messages[0].content }}",
                       {.messages = one, .add_generation_prompt = true, .continue_final_message = "content"}),
              HasSubstr("at once"));
}

TEST(ChatTemplate, several_need_a_name) {
  TokenizerFacts facts{.origin = "folder", .chat_templates = {{"rag", "R"}, {"tool_use", "T"}}};
  EXPECT_EQ(choose_chat_template(facts, "rag"), "R");
  EXPECT_EQ(choose_chat_template(facts, std::nullopt, true), "T");
  EXPECT_EQ(choose_chat_template(facts, "{{ 1 }}"), "{{ 1 }}");
  EXPECT_THROW(choose_chat_template(facts), UserError);
}

}  // namespace
}  // namespace viaduct::text
