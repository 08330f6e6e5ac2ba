// The recipes of mixed precision, against upstream's.
#include "viaduct/config/mixed_precision.h"

#include <gtest/gtest.h>

#include "tests/unit/config/config_fixture.h"

namespace viaduct::config {
namespace {

TEST(MixedPrecision, RecipesAreUpstreams) {
  const Json golden = testing::fixture("mixed_precision.json");
  EXPECT_EQ(mixed_precision_recipes().size(), golden.members().size());
  for (const auto& [name, text] : golden.members())
    EXPECT_EQ(section_to_yaml(mixed_precision_recipe(name)), parse_yaml(text.as_string(), name)) << name;
}

TEST(MixedPrecision, HyphensStandForUnderscores) {
  EXPECT_TRUE(mixed_precision_recipe("bf16-with-mxfp8-mixed").reuse_grad_buf_for_mxfp8_param_ag);
  EXPECT_THROW(mixed_precision_recipe("bf16"), UserError);
}

TEST(MixedPrecision, ValuesAsPythonPrintsThem) {
  EXPECT_EQ(python_text(parse_yaml("[1, 1.0e-05, true, null, {_call_: false, _target_: torch.float16}, a]", "")),
            "[1, 1e-05, True, None, torch.float16, a]");
}

}  // namespace
}  // namespace viaduct::config
