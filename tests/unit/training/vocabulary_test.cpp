// How many tokens a model has: what it says, or what its tokenizer says.
#include <gtest/gtest.h>

#include "viaduct/core/error.h"
#include "viaduct/training/setup.h"

namespace viaduct::training {
namespace {

config::ConfigContainer of_tokens(int64_t tokens) {
  config::ConfigContainer config;
  config.tokenizer.tokenizer_type = "NullTokenizer";
  config.tokenizer.vocab_size = tokens;
  return config;
}

void settle(config::ConfigContainer& config) { settle_vocabulary(config, open_tokenizer(config.tokenizer).get()); }

TEST(Vocabulary, IsTheTokenizersUnlessTheModelHasOne) {
  config::ConfigContainer config = of_tokens(999);
  config.model.vocab_size = std::nullopt;
  settle(config);
  const int64_t tokens = config.model.vocab_size.value();  // with the end of a text
  EXPECT_GE(tokens, 999);
  EXPECT_TRUE(config.model.should_pad_vocab);

  config.model.vocab_size = 2048;
  config.model.should_pad_vocab = false;
  settle(config);
  EXPECT_EQ(config.model.vocab_size, 2048);
  EXPECT_FALSE(config.model.should_pad_vocab);

  config.tokenizer.use_tokenizer_vocab_size = true;
  settle(config);
  EXPECT_EQ(config.model.vocab_size, tokens);
  EXPECT_TRUE(config.model.should_pad_vocab);
}

TEST(Vocabulary, MustHoldTheTokenizersTokens) {
  config::ConfigContainer config = of_tokens(999);
  config.model.vocab_size = 100;
  EXPECT_THROW(settle(config), UserError);
  config.tokenizer.use_tokenizer_vocab_size = true;
  EXPECT_NO_THROW(settle(config));
}

}  // namespace
}  // namespace viaduct::training
