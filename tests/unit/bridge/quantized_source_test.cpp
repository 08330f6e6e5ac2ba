// Which listed tensors make which weights, for every quantised form, and what is said of lists that are wrong.
#include "viaduct/bridge/quantized_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Method = Quantization::Method;

std::optional<Quantization> read(const std::string& config,
                                 const std::optional<std::string>& second = std::nullopt) {
  const std::optional<Json> other =
      second ? std::optional(Json::parse(*second, "hf_quant_config.json")) : std::nullopt;
  return read_quantization(Json::parse(config, "config.json"), other ? &*other : nullptr, "model");
}

std::string compressed(const std::string& format, const std::string& weights) {
  return R"({"quantization_config": {"quant_method": "compressed-tensors", "format": ")" + format +
         R"(", "config_groups": {"group_0": {"targets": ["Linear"], "weights": )" + weights + "}}}}";
}

TEST(Quantization, MethodsThatAreRead) {
  EXPECT_FALSE(read(R"({"model_type": "llama"})"));
  EXPECT_FALSE(read(R"({"quantization_config": null})"));
  const auto blocks = read(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]}})");
  EXPECT_EQ(blocks->method, Method::kFp8);
  EXPECT_EQ(blocks->block_rows, 128);
  EXPECT_EQ(blocks->block_columns, 64);
  EXPECT_EQ(read(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": null}})")->block_rows, 0);
  EXPECT_EQ(read(R"({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}})")->method, Method::kMxfp4);
  EXPECT_EQ(read(R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}})")->method,
            Method::kModelOptFp8);
  EXPECT_EQ(read("{}", R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})")->method,
            Method::kModelOptFp8);
  const auto int4 = read(
      compressed("pack-quantized",
                 R"({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32})"));
  EXPECT_EQ(int4->method, Method::kCompressedInt4);
  EXPECT_EQ(int4->group, 32);
  EXPECT_EQ(read(compressed("float-quantized",
                            R"({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel"})"))
                ->method,
            Method::kCompressedFp8);
  const auto fp8_blocks = read(compressed(
      "float-quantized",
      R"({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "block", "block_structure": [128, 64]})"));
  EXPECT_EQ(fp8_blocks->method, Method::kCompressedFp8);
  EXPECT_EQ(fp8_blocks->block_columns, 64);
}

TEST(Quantization, OthersAreRefusedByName) {
  for (const std::string method : {"awq", "gptq", "bitsandbytes", "hqq"}) {
    EXPECT_THAT([&] { read(R"({"quantization_config": {"quant_method": ")" + method + R"("}})"); },
                ThrowsMessage<UserError>(AllOf(HasSubstr("model: "), HasSubstr(method), HasSubstr("original"))));
  }
  EXPECT_THAT([] { read("{}", R"({"quantization": {"quant_algo": "NVFP4"}})"); },
              ThrowsMessage<UserError>(HasSubstr("ModelOpt NVFP4")));
  EXPECT_THAT(
      [] {
        read(R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                 "quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "W4A16_AWQ"}}}})");
      },
      ThrowsMessage<UserError>(HasSubstr("W4A16_AWQ (b)")));
  EXPECT_THAT([] { read(compressed("int-quantized", R"({"num_bits": 8, "type": "int", "strategy": "channel"})")); },
              ThrowsMessage<UserError>(HasSubstr("8 bits, int, by channel")));
  EXPECT_THAT(
      [] {
        read(compressed("pack-quantized",
                        R"({"num_bits": 4, "type": "int", "symmetric": false, "strategy": "channel"})"));
      },
      ThrowsMessage<UserError>(HasSubstr("not symmetric")));
  EXPECT_THAT([] { read(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}})"); },
              ThrowsMessage<UserError>(HasSubstr("weight_block_size")));
  EXPECT_THAT([] { read(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": 128}})"); },
              ThrowsMessage<UserError>(HasSubstr("quantization_config")));
}

// "name dtype shape" of each logical tensor, with the block of its scales.
std::vector<std::string> logical(const Quantization& quantization, const std::vector<NamedTensor>& listed) {
  const LogicalTensors view = logical_tensors(listed, quantization, "model");
  std::vector<std::string> result;
  for (const LogicalTensor& tensor : view.tensors) {
    std::string text = fmt::format("{} {} {}", tensor.name, tensor.dtype, tensor.shape);
    if (tensor.form >= 0) text += fmt::format(" by {}", view.forms[static_cast<size_t>(tensor.form)].block);
    EXPECT_EQ(view.find(tensor.name), &tensor);
    result.push_back(std::move(text));
  }
  std::string beside;
  for (const int32_t id : view.beside) beside += fmt::format(" {}", id);
  result.push_back("beside" + beside);
  return result;
}

TEST(LogicalTensors, EveryForm) {
  const Quantization blocks{Method::kFp8, 128, 128};
  EXPECT_THAT(logical(blocks, {{"n.weight", DType::kBF16, {7}},
                               {"a.weight", DType::kF8E4M3, {136, 264}},
                               {"a.weight_scale_inv", DType::kF32, {2, 3}},
                               {"experts.up", DType::kF8E4M3, {4, 136, 264}},
                               {"experts.up_scale_inv", DType::kBF16, {4, 2, 3}}}),
              ElementsAre("n.weight BF16 [7]", "a.weight BF16 [136, 264] by [128, 128]",
                          "experts.up BF16 [4, 136, 264] by [1, 128, 128]", "beside 2 4"));
  EXPECT_THAT(logical({Method::kFp8}, {{"a.weight", DType::kF8E4M3, {6, 4}},
                                       {"a.activation_scale", DType::kBF16, {}},
                                       {"a.weight_scale_inv", DType::kBF16, {}}}),
              ElementsAre("a.weight BF16 [6, 4] by [6, 4]", "beside 1 2"));
  EXPECT_THAT(logical({Method::kModelOptFp8}, {{"k_proj.weight", DType::kF8E4M3, {6, 4}},
                                               {"k_proj.weight_scale", DType::kF32, {1}},
                                               {"k_proj.input_scale", DType::kF32, {}},
                                               {"k_proj.k_scale", DType::kF32, {}}}),
              ElementsAre("k_proj.weight BF16 [6, 4] by [6, 4]", "beside 1 2 3"));
  EXPECT_THAT(logical({Method::kCompressedFp8}, {{"a.weight", DType::kF8E4M3, {6, 4}},
                                                 {"a.weight_scale", DType::kBF16, {6, 1}},
                                                 {"b.weight", DType::kF8E4M3, {6, 4}},
                                                 {"b.weight_scale", DType::kF32, {6}}}),
              ElementsAre("a.weight BF16 [6, 4] by [1, 4]", "b.weight BF16 [6, 4] by [1, 4]", "beside 1 3"));
  EXPECT_THAT(logical({Method::kMxfp4}, {{"e.up_blocks", DType::kU8, {8, 6, 2, 16}},
                                         {"e.up_scales", DType::kU8, {8, 6, 2}},
                                         {"e.up_bias", DType::kBF16, {8, 6}}}),
              ElementsAre("e.up BF16 [8, 6, 64] by [1, 1, 32]", "e.up_bias BF16 [8, 6]", "beside 1"));
  EXPECT_THAT(logical({Method::kCompressedInt4, 0, 0, 32}, {{"a.weight_packed", DType::kI32, {6, 16}},
                                                            {"a.weight_scale", DType::kBF16, {6, 4}},
                                                            {"a.weight_shape", DType::kI64, {2}}}),
              ElementsAre("a.weight BF16 [6, 128] by [1, 32]", "beside 1 2"));
}

TEST(LogicalTensors, WrongListsAreNamed) {
  const Quantization blocks{Method::kFp8, 128, 128};
  const auto error_of = [](const Quantization& quantization, const std::vector<NamedTensor>& listed) {
    try {
      logical_tensors(listed, quantization, "model");
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of(blocks, {{"a.weight", DType::kF8E4M3, {136, 264}}}),
              HasSubstr("a.weight: its scales a.weight_scale_inv are missing"));
  EXPECT_THAT(error_of(blocks, {{"a.weight_scale_inv", DType::kF32, {2, 3}}}),
              HasSubstr("scales for a.weight, which is missing"));
  EXPECT_THAT(
      error_of(blocks, {{"a.weight", DType::kBF16, {136, 264}}, {"a.weight_scale_inv", DType::kF32, {2, 3}}}),
      HasSubstr("scales for a.weight, which is BF16"));
  EXPECT_THAT(
      error_of(blocks, {{"a.weight", DType::kF8E4M3, {136, 264}}, {"a.weight_scale_inv", DType::kF32, {3, 2}}}),
      HasSubstr(
          "a.weight_scale_inv: scales of shape [3, 2] do not fit a.weight of [136, 264] in blocks of [128, 128]"));
  EXPECT_THAT(
      error_of(blocks, {{"a.weight", DType::kF8E4M3, {136, 264}}, {"a.weight_scale_inv", DType::kI32, {2, 3}}}),
      HasSubstr("scales of type I32"));
  EXPECT_THAT(
      error_of({Method::kFp8}, {{"a.weight", DType::kF8E4M3, {6, 4}}, {"a.weight_scale_inv", DType::kF32, {5}}}),
      HasSubstr("one a tensor or one a row is expected"));
  EXPECT_THAT(
      error_of({Method::kModelOptFp8}, {{"a.weight", DType::kBF16, {6, 4}}, {"a.input_scale", DType::kF32, {}}}),
      HasSubstr("a.input_scale: belongs to quantised weights a.weight, which are missing"));
  EXPECT_THAT(error_of({Method::kMxfp4}, {{"e_blocks", DType::kU8, {8, 2, 15}}, {"e_scales", DType::kU8, {8, 2}}}),
              HasSubstr("16 bytes a group"));
  EXPECT_THAT(error_of({Method::kMxfp4}, {{"e_blocks", DType::kU8, {8, 2, 16}}, {"e_scales", DType::kU8, {8, 3}}}),
              HasSubstr("do not fit e of [8, 64] in groups of 32"));
  EXPECT_THAT(error_of({Method::kCompressedInt4, 0, 0, 32},
                       {{"a.weight_packed", DType::kI32, {6, 16}}, {"a.weight_scale", DType::kBF16, {6, 5}}}),
              HasSubstr("4 a row are expected"));
  EXPECT_THAT(error_of({Method::kCompressedInt4, 0, 0, 32}, {{"a.weight_zero_point", DType::kI32, {6, 16}}}),
              HasSubstr("zero points"));
  EXPECT_THAT(error_of({Method::kCompressedInt4, 0, 0, 32}, {{"a.weight_packed", DType::kI32, {6, 16}},
                                                             {"a.weight_scale", DType::kBF16, {6, 4}},
                                                             {"a.weight", DType::kBF16, {6, 128}}}),
              HasSubstr("a.weight is there twice"));
}

}  // namespace
}  // namespace viaduct::bridge
