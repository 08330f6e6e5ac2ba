// Views read into memory: every parameter as the reference program made it, alone and in a stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/bridge/golden_model.h"
#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/bridge/rank_view.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

using testing::HasSubstr;

std::vector<std::byte> bytes_of(const LoadedTensor& tensor) {
  return {tensor.bytes.bytes().begin(), tensor.bytes.bytes().end()};
}

class WeightsInMemory : public testing::TestWithParam<const char*> {};

TEST_P(WeightsInMemory, ParametersAreTheReferences) {
  const GoldenModel golden = read_golden_model(GetParam());
  const auto checkpoint = open_checkpoint(golden.hf_folder);
  const std::vector<ModelChunk> chunks = rank_view(*checkpoint, {}, 0);
  ASSERT_EQ(chunks.size(), 1u);
  const View& view = chunks[0].view;
  ASSERT_EQ(view.tensors.size(), golden.parameters.size());
  WeightStream stream(view);
  for (size_t i = 0; i < view.tensors.size(); ++i) {
    const ViewTensor& tensor = view.tensors[i];
    const GoldenModel::Tensor& expected = golden.parameters.at(chunks[0].parameters[i]);
    const std::optional<LoadedTensor> streamed = stream.next();
    ASSERT_TRUE(streamed);
    EXPECT_EQ(streamed->name, tensor.name);
    EXPECT_EQ(streamed->dtype, expected.dtype) << tensor.name;
    EXPECT_EQ(streamed->shape, expected.shape) << tensor.name;
    EXPECT_EQ(bytes_of(*streamed), expected.bytes) << tensor.name;
    EXPECT_EQ(bytes_of(load_tensor(view, tensor, tensor.dtype)), expected.bytes) << tensor.name;
  }
  EXPECT_FALSE(stream.next());
  EXPECT_FALSE(stream.next());
}

INSTANTIATE_TEST_SUITE_P(Fixtures, WeightsInMemory,
                         testing::Values("llama", "gemma", "qwen3_moe", "deepseek_v3", "gpt_oss", "glm45"));

TEST(WeightStream, CastsFloatingTensors) {
  const GoldenModel golden = read_golden_model("qwen3");
  const auto checkpoint = open_checkpoint(golden.hf_folder);
  WeightStream stream(hf_view(*checkpoint), DType::kF32);
  size_t seen = 0;
  while (const std::optional<LoadedTensor> tensor = stream.next()) {
    const GoldenModel::Tensor& source = golden.hf.at(tensor->name);
    std::vector<std::byte> expected(source.bytes.size() * 2);
    convert(source.dtype, source.bytes.data(), DType::kF32, expected.data(), num_elements(source.shape));
    EXPECT_EQ(tensor->dtype, DType::kF32);
    EXPECT_EQ(bytes_of(*tensor), expected) << tensor->name;
    ++seen;
  }
  EXPECT_EQ(seen, golden.hf.size());
}

TEST(WeightStream, ReadsAheadWithinItsBoundAndStopsWhenItIsLeft) {
  const GoldenModel golden = read_golden_model("llama");
  const auto checkpoint = open_checkpoint(golden.hf_folder);
  for (int taken = 0; taken < 3; ++taken) {
    WeightStream stream(hf_view(*checkpoint), std::nullopt, 1);
    for (int i = 0; i < taken; ++i) EXPECT_TRUE(stream.next());
  }
}

TEST(WeightStream, SaysWhyItCouldNotRead) {
  const GoldenModel golden = read_golden_model("llama");
  const Path folder = testing::TempDir() + "weight_stream_cut";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(golden.hf_folder, folder);
  const auto checkpoint = open_checkpoint(folder);
  const View view = hf_view(*checkpoint);
  for (const Path& file : checkpoint->stored().files)
    std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1000);
  WeightStream stream(view);
  EXPECT_THROW(
      {
        while (stream.next()) {
        }
      },
      UserError);
  EXPECT_THROW(stream.next(), UserError);
}

TEST(Provider, SizesAndFieldsThatDoNotFitAreNamed) {
  const AutoBridge bridge = AutoBridge::from_hf_pretrained(read_golden_model("qwen3_moe").hf_folder);
  const config::ModelConfig good = bridge.to_megatron_provider();
  EXPECT_EQ(parallelism_of(good), topology::Parallelism{});
  check_provider(bridge.checkpoint(), good);
  const auto refusal = [&](auto&& change) -> std::string {
    config::ModelConfig provider = good;
    change(provider);
    try {
      check_provider(bridge.checkpoint(), provider);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal([](auto& p) { p.tensor_model_parallel_size = 0; }),
              HasSubstr("tensor_model_parallel_size is 0"));
  EXPECT_THAT(refusal([](auto& p) { p.hidden_size *= 2; }), HasSubstr("has the shape"));
  EXPECT_THAT(refusal([](auto& p) { ++p.num_layers; }), HasSubstr("in its place"));
  EXPECT_THAT(refusal([](auto& p) {
                p.pipeline_model_parallel_size = 2;
                p.num_layers_in_first_pipeline_stage = 1;
              }),
              HasSubstr("layout of its own"));
  config::ModelConfig experts = good;
  experts.expert_tensor_parallel_size = std::nullopt;
  experts.tensor_model_parallel_size = 2;
  EXPECT_EQ(parallelism_of(experts).etp, 2);
}

}  // namespace
}  // namespace viaduct::bridge
