// Value steps of a plan against their definitions, one element at a time: codes with scales, encoders, originals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/unit/bridge/run_plan.h"

namespace viaduct::bridge {
namespace {

using testing::HasSubstr;

// A matrix in blocks of 128 x 128, cut along both axes in parts that end inside blocks, and turned.
TEST(ValueSteps, CutsThroughBlocksOfScales) {
  for (const Codes codes : {Codes::kE4M3, Codes::kE2M1, Codes::kInt4}) {
    PlanMaker maker(11);
    const uint32_t file = maker.add_source_file(), target = maker.add_target_file();
    const bool powers = codes == Codes::kE2M1;
    const ScaledForm form{codes, powers ? DType::kU8 : DType::kF32, false, powers ? Shape{1, 32} : Shape{128, 128}};
    const int32_t source = maker.add_scaled_source(file, {600, 3072}, form, file);
    for (int64_t part = 0; part < 3; ++part) {
      maker.add_literal(target, 70);
      maker.add_target(target, DType::kBF16, {600, 1024});
      maker.add_transfer(source, {layout::Box::dense({0, part * 1024}, {600, 1024}),
                                  layout::Box::whole({600, 1024}), layout::AxisMap::identity(2)});
    }
    for (int64_t part = 0; part < 4; ++part) {
      maker.add_target(target, part < 2 ? DType::kBF16 : DType::kF32, {150, 3072});
      maker.add_transfer(source, {layout::Box::dense({part * 150, 0}, {150, 3072}), layout::Box::whole({150, 3072}),
                                  layout::AxisMap::identity(2)});
    }
    layout::AxisMap turned;
    turned[0] = 1;
    turned[1] = 0;
    maker.add_target(target, DType::kBF16, {3072, 600});
    maker.add_transfer(source, {layout::Box::whole({600, 3072}), layout::Box::whole({3072, 600}), turned});
    const PlanWithSource given = maker.finish();
    const Proof proof = prove(given.plan, given.source_sizes());
    ASSERT_TRUE(proof.holds()) << proof.problems[0];
    ExecuteReport report;
    expect_equal(run_in_memory(given, small_memory(), &report), expected_files(given));
    // Every block of the source is loaded once for each of the three groups at most, whatever the cuts.
    EXPECT_LE(report.bytes_read, 3 * (given.sources[0].size() + 8192));
  }
}

TEST(ValueSteps, TurnedCodesLargerThanTheMemory) {
  PlanMaker maker(12);
  const uint32_t file = maker.add_source_file();
  const int32_t source =
      maker.add_scaled_source(file, {2100, 7001}, {Codes::kE4M3, DType::kF32, false, {128, 128}}, file);
  maker.add_target(maker.add_target_file(), DType::kBF16, {7001, 2100});
  layout::AxisMap turned;
  turned[0] = 1;
  turned[1] = 0;
  maker.add_transfer(source, {layout::Box::whole({2100, 7001}), layout::Box::whole({7001, 2100}), turned});
  const PlanWithSource given = maker.finish();
  expect_equal(run_in_memory(given, small_memory()), expected_files(given));
}

// As GPT-oss' experts go from a GGUF file into Hugging Face's tensors.
TEST(ValueSteps, TurnedBlocksWithANumberAdded) {
  for (const DType blocks : {DType::kMXFP4, DType::kQ6_K}) {
    PlanMaker maker(14);
    const uint32_t file = maker.add_source_file(), target = maker.add_target_file();
    const int32_t source = maker.add_source(file, blocks, {3, 300, 1024});
    maker.plan().sources.back().add = -1;
    layout::AxisMap turned = layout::AxisMap::identity(3);
    turned[1] = 2;
    turned[2] = 1;
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      maker.add_target(target, dtype, {3, 1024, 300});
      maker.add_transfer(source, {layout::Box::whole({3, 300, 1024}), layout::Box::whole({3, 1024, 300}), turned});
      // Cut inside of blocks, rows by turns.
      maker.add_target(target, dtype, {2, 700, 150});
      layout::Box part = layout::Box::dense({1, 1, 77}, {2, 150, 700});
      part.stride[1] = 2;
      maker.add_transfer(source, {part, layout::Box::whole({2, 700, 150}), turned});
    }
    const PlanWithSource given = maker.finish();
    const Proof proof = prove(given.plan, given.source_sizes());
    ASSERT_TRUE(proof.holds()) << proof.problems[0];
    expect_equal(run_in_memory(given, small_memory()), expected_files(given));
  }
}

TEST(ValueStepsProof, ScalesThatDoNotFit) {
  const auto problem_of = [](const std::function<void(PlanWithSource&)>& change) {
    PlanMaker maker(13);
    const uint32_t file = maker.add_source_file();
    const int32_t source =
        maker.add_scaled_source(file, {8, 64}, {Codes::kE4M3, DType::kF32, false, {4, 32}}, file);
    maker.add_target(maker.add_target_file(), DType::kBF16, {8, 64});
    maker.add_whole_transfer(source);
    PlanWithSource given = maker.finish();
    EXPECT_TRUE(prove(given.plan, given.source_sizes()).holds());
    change(given);
    const Proof proof = prove(given.plan, given.source_sizes());
    return proof.holds() ? std::string() : proof.problems[0];
  };
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.forms[0].block = {4, 31}; }), HasSubstr("reach to byte"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.scales[0].byte_offset += 1; }), HasSubstr("reach to byte"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.forms[0].block = {4, 0}; }), HasSubstr("blocks of [4, 0]"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.forms[0].block = {4}; }), HasSubstr("blocks of [4]"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.forms[0].scale_dtype = DType::kI32; }),
              HasSubstr("scales of I32"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.forms[0].codes = Codes::kInt4; }),
              HasSubstr("does not hold codes"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.scales[0].form = 1; }), HasSubstr("form 1 of 1"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.scales[0].file = 1; }), HasSubstr("file 1 of 1"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.sources[0].scales = 1; }), HasSubstr("scales 1 of 1"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) {
                g.plan.sources[0].strides = {64, 1};
              }),
              HasSubstr("strided view of codes"));
  EXPECT_THAT(problem_of([](PlanWithSource& g) { g.plan.targets[0].dtype = DType::kI16; }),
              HasSubstr("cannot be converted"));
}

// The code nearest to a number, the even one of two, found by trying all.
uint8_t nearest_code(Codes codes, float number) {
  const bool nibbles = codes == Codes::kE2M1 || codes == Codes::kInt4;
  int best = 0;
  double least = 1e300;
  for (int code = 0; code < (nibbles ? 16 : 256); ++code) {
    float value = 0;
    const auto byte = static_cast<std::byte>(code);
    if (codes == Codes::kInt4) {
      value = static_cast<float>(code - 8);
    } else if (codes == Codes::kE2M1) {
      const std::byte pair[1] = {byte};
      convert_element(DType::kF4, pair, 0, DType::kF32, reinterpret_cast<std::byte*>(&value));
    } else {
      convert_element(DType::kF8E4M3, &byte, 0, DType::kF32, reinterpret_cast<std::byte*>(&value));
    }
    if (value != value || std::signbit(value) != std::signbit(number)) {
      if (codes != Codes::kInt4) continue;
    }
    const double distance = std::fabs(static_cast<double>(value) - static_cast<double>(number));
    if (distance < least || (distance == least && code % 2 == 0)) {
      best = code;
      least = distance;
    }
  }
  return static_cast<uint8_t>(best);
}

// Codes made of a matrix that lies in two parts and turned, with scales that are given.
TEST(ValueSteps, EncodesWithGivenScales) {
  for (const auto& [codes, block] : {std::pair(Codes::kE4M3, Shape{24, 40}), std::pair(Codes::kInt4, Shape{1, 8}),
                                     std::pair(Codes::kE2M1, Shape{1, 32})}) {
    PlanMaker maker(15);
    const uint32_t file = maker.add_source_file(), beside = maker.add_source_file();
    const bool powers = codes == Codes::kE2M1;
    const bool nibbles = codes != Codes::kE4M3;
    const Shape size = {130, 96};
    maker.append_random(maker.bytes(file), 3);
    const int32_t upper = maker.add_numbers(file, {70, 96}), lower = maker.add_numbers(file, {96, 60});
    const ScaledForm form{codes, powers ? DType::kU8 : DType::kF32, false, block};
    TransferPlan& plan = maker.plan();
    plan.scales.push_back({beside, 0, 5});
    plan.forms.push_back(form);
    Bytes& stored = maker.bytes(beside);
    stored.resize(5);
    std::vector<float> scales;
    for (int64_t i = num_elements(form.grid(size)); i > 0; --i) {
      const float value = powers ? 0.25f : static_cast<float>(maker.number(1, 1000)) * 0x1p-10f;
      scales.push_back(value);
      const auto* bytes = reinterpret_cast<const std::byte*>(&value);
      if (powers) {
        stored.push_back(std::byte{125});
      } else {
        stored.insert(stored.end(), bytes, bytes + 4);
      }
    }
    plan.encoders.push_back({DType::kBF16, 0, layout::kNoTensor, 0});
    const uint32_t target = maker.add_target_file();
    maker.add_literal(target, 7);
    maker.add_target(target, nibbles ? DType::kF4 : DType::kF8E4M3, size);
    plan.targets.back().encoder = 0;
    layout::AxisMap turned;
    turned[0] = 1;
    turned[1] = 0;
    maker.add_transfer(
        upper, {layout::Box::whole({70, 96}), layout::Box::dense({0, 0}, {70, 96}), layout::AxisMap::identity(2)});
    maker.add_transfer(lower, {layout::Box::whole({96, 60}), layout::Box::dense({70, 0}, {60, 96}), turned});
    const PlanWithSource given = maker.finish();
    const Proof proof = prove(given.plan, given.source_sizes());
    ASSERT_TRUE(proof.holds()) << proof.problems[0];
    const std::vector<Bytes> files = run_in_memory(given, small_memory());
    const Shape grid = form.grid(size);
    for (int64_t row = 0; row < size[0]; ++row) {
      for (int64_t column = 0; column < size[1]; ++column) {
        const SourceChunk& from = given.plan.sources[static_cast<size_t>(row < 70 ? upper : lower)];
        const int64_t at = row < 70 ? row * 96 + column : column * 60 + (row - 70);
        uint16_t bits;
        std::memcpy(&bits, given.sources[file].data() + from.byte_offset + 2 * static_cast<size_t>(at), 2);
        const float scale = scales[static_cast<size_t>(row / block[0] * grid[1] + column / block[1])];
        const int64_t element = row * size[1] + column;
        const std::byte byte = files[0][7 + static_cast<size_t>(nibbles ? element / 2 : element)];
        const int found =
            nibbles ? std::to_integer<int>(byte) >> (element % 2 * 4) & 0xF : std::to_integer<int>(byte);
        ASSERT_EQ(found, nearest_code(codes, to_float32(bits) / scale)) << row << " " << column;
      }
    }
  }
}

// Originals are written where, imported, they are the stored number; else the number less what import added.
TEST(ValueSteps, KeepsOriginalsThatAreStillTrue) {
  PlanMaker maker(16);
  const uint32_t file = maker.add_source_file(), target = maker.add_target_file();
  const int32_t numbers = maker.add_numbers(file, {6000}), original = maker.add_numbers(file, {6000});
  TransferPlan& plan = maker.plan();
  const auto bits_of = [&](int32_t source, size_t i) {
    return maker.bytes(file).data() + plan.sources[static_cast<size_t>(source)].byte_offset + 2 * i;
  };
  for (size_t i = 0; i < 6000; i += 3)  // every third is as import made it
    convert_and_add(DType::kBF16, bits_of(original, i), DType::kBF16, bits_of(numbers, i), 1, -1);
  plan.encoders.push_back({DType::kBF16, kNoScales, original, -1});
  maker.add_target(target, DType::kBF16, {6000});
  plan.targets.back().encoder = 0;
  plan.targets.back().add = 1;
  maker.add_whole_transfer(numbers);
  const PlanWithSource given = maker.finish();
  ASSERT_TRUE(prove(given.plan, given.source_sizes()).holds());
  const std::vector<Bytes> files = run_in_memory(given, small_memory());
  size_t kept = 0, lossy = 0;
  for (size_t i = 0; i < 6000; ++i) {
    const auto at = [&](int32_t source) {
      uint16_t bits;
      std::memcpy(&bits,
                  given.sources[file].data() + given.plan.sources[static_cast<size_t>(source)].byte_offset + 2 * i,
                  2);
      return bits;
    };
    uint16_t found;
    std::memcpy(&found, files[0].data() + 2 * i, 2);
    const uint16_t formula = to_bfloat16_bits(to_float32(at(numbers)) + 1.0f);
    const bool is_true = to_bfloat16_bits(to_float32(at(original)) - 1.0f) == at(numbers);
    EXPECT_EQ(found, is_true ? at(original) : formula);
    kept += is_true;
    lossy += is_true && formula != at(original);
  }
  EXPECT_GE(kept, 2000u);
  EXPECT_LT(kept, 3000u);
  EXPECT_GE(lossy, 100u);  // the formula alone would not do
}

TEST(ValueStepsProof, EncodersThatDoNotFit) {
  const auto problem_of = [](const std::function<void(TransferPlan&)>& change) {
    PlanMaker maker(17);
    const uint32_t file = maker.add_source_file();
    const int32_t numbers = maker.add_numbers(file, {8, 64}), original = maker.add_numbers(file, {8, 64});
    TransferPlan& plan = maker.plan();
    plan.scales.push_back({file, 0, 0});
    plan.forms.push_back({Codes::kE4M3, DType::kF32, false, {8, 64}});
    plan.encoders.push_back({DType::kBF16, 0, layout::kNoTensor, 0});
    plan.encoders.push_back({DType::kBF16, kNoScales, original, -1});
    const uint32_t target = maker.add_target_file();
    maker.add_target(target, DType::kF8E4M3, {8, 64});
    plan.targets.back().encoder = 0;
    maker.add_whole_transfer(numbers);
    maker.add_target(target, DType::kBF16, {8, 64});
    plan.targets.back().encoder = 1;
    maker.add_whole_transfer(numbers);
    PlanWithSource given = maker.finish();
    EXPECT_TRUE(prove(given.plan, given.source_sizes()).holds());
    change(given.plan);
    const Proof proof = prove(given.plan, given.source_sizes());
    return proof.holds() ? std::string() : proof.problems[0];
  };
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.targets[0].encoder = 2; }), HasSubstr("encoder 2 of 2"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.encoders[0].scales = 1; }), HasSubstr("scales 1 of 1"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.encoders[1].original = 9; }), HasSubstr("source chunk 9 of 2"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.encoders[0].original = 0; }), HasSubstr("either scales or"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.scales[0].byte_offset = 1 << 20; }), HasSubstr("reach to byte"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.forms[0].codes = Codes::kInt4; }),
              HasSubstr("does not hold codes"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.targets[0].add = 1; }), HasSubstr("plus 1"));
  EXPECT_THAT(problem_of([](TransferPlan& p) { p.sources[1].size = {64, 8}; }), HasSubstr("with an original"));
}

// The hash of a plan sees everything that changes what is written.
TEST(TransferPlan, HashSeesScalesAndAddition) {
  PlanMaker maker(14);
  const uint32_t file = maker.add_source_file();
  const int32_t source = maker.add_scaled_source(file, {8, 64}, {Codes::kE4M3, DType::kF32, false, {4, 32}}, file);
  maker.add_target(maker.add_target_file(), DType::kBF16, {8, 64});
  maker.add_whole_transfer(source);
  const PlanWithSource given = maker.finish();
  const std::function<void(TransferPlan&)> changes[] = {
      [](TransferPlan& plan) { plan.targets[0].add = 1; },
      [](TransferPlan& plan) { plan.scales[0].byte_offset += 4; },
      [](TransferPlan& plan) { plan.forms[0].round_scale = true; },
      [](TransferPlan& plan) {
        plan.forms[0].block = {2, 32};
      },
      [](TransferPlan& plan) { plan.forms[0].codes = Codes::kE5M2; },
      [](TransferPlan& plan) { plan.sources[0].scales = kNoScales; },
      [](TransferPlan& plan) { plan.targets[0].encoder = 0; },
      [](TransferPlan& plan) {
        plan.encoders.push_back({DType::kBF16, 0, layout::kNoTensor, 0});
      },
      [](TransferPlan& plan) {
        plan.encoders.push_back({DType::kBF16, kNoScales, 0, 1});
      },
  };
  for (const auto& change : changes) {
    TransferPlan plan = given.plan;
    change(plan);
    EXPECT_NE(plan.hash(), given.plan.hash());
  }
}

}  // namespace
}  // namespace viaduct::bridge
