// What is read straight into memory is what the executor makes.
#include "viaduct/bridge/direct_read.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/buffer.h"

namespace viaduct::bridge {
namespace {

class DirectRead : public testing::Test {
 protected:
  // Two files of 3 MiB of random bytes; tensors 0 and 1 are [512, 1024] and [1024, 256] of the first, 2 is [3,
  // 1024, 512] of the second, none of them at a round offset.
  DirectRead() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::mt19937 random(7);
    for (int f = 0; f < 2; ++f) {
      std::string bytes((3 << 20) + 100, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      stored_.files.push_back(folder_ / std::to_string(f));
      write_file(stored_.files.back(), bytes);
    }
    add({512, 1024}, 0, 6);
    add({1024, 256}, 0, 6 + 512 * 1024 * 2);
    add({3, 1024, 512}, 1, 70);
  }

  void add(const Shape& shape, uint32_t file, uint64_t offset) {
    PlainTensor tensor{"t", DType::kBF16, shape, {}};
    tensor.chunks.push_back({Shape::filled(shape.rank(), 0), {file, offset, DType::kBF16, shape, {}}});
    stored_.tensors.push_back(tensor);
  }

  // Box [from, from + size) of a tensor at `to` of target 0.
  layout::Piece box(int32_t tensor, const Shape& from, const Shape& size, const Shape& to) {
    layout::Piece piece;
    piece.source = tensor;
    piece.target = 0;
    piece.from = layout::Box::dense(from, size);
    piece.to = layout::Box::dense(to, size);
    piece.axes = layout::AxisMap::identity(size.rank());
    return piece;
  }

  const Path folder_ = Path(testing::TempDir()) / "direct_read";
  StoredTensors stored_;
};

TEST_F(DirectRead, MakesWhatTheExecutorMakes) {
  PlanBuilder builder(stored_);
  const auto target = [&](const Shape& shape, DType dtype, const layout::Pieces& pieces, float add = 0) {
    static uint32_t number = 0;
    builder.add(Shape::filled(shape.rank(), 0), shape, dtype, pieces, number++, 0, add);
  };
  layout::Piece fill;
  fill.target = 0;
  fill.to = layout::Box::dense({512, 0}, {8, 1024});
  target({520, 1024}, DType::kBF16, {box(0, {0, 0}, {512, 1024}, {0, 0}), fill});
  target({200, 1024}, DType::kBF16,
         {box(0, {100, 0}, {100, 1024}, {100, 0}), box(0, {400, 0}, {100, 1024}, {0, 0})});
  target({2, 512, 512}, DType::kBF16, {box(2, {1, 256, 0}, {2, 512, 512}, {0, 0, 0})});
  const uint32_t direct = 3;
  target({1024, 128}, DType::kBF16, {box(1, {0, 64}, {1024, 128}, {0, 0})});  // short runs
  target({512, 1024}, DType::kF32, {box(0, {0, 0}, {512, 1024}, {0, 0})});    // converted
  target({512, 1024}, DType::kBF16, {box(0, {0, 0}, {512, 1024}, {0, 0})}, 1);
  const TransferPlan plan = builder.finish_virtual();

  std::vector<bool> files = direct_targets(plan);
  for (uint32_t i = 0; i < files.size(); ++i) EXPECT_EQ(files[i], i < direct) << i;
  std::vector<Buffer> expected, found;
  std::vector<std::span<std::byte>> into_expected, into_found;
  for (const TargetChunk& chunk : plan.targets) {
    into_expected.push_back(expected.emplace_back(chunk.num_bytes()).bytes());
    into_found.push_back(found.emplace_back(chunk.num_bytes()).bytes());
    std::ranges::fill(into_found.back(), std::byte{0xAB});
  }
  execute(plan, *open_source(plan), *memory_sink(into_expected), {});
  ExecuteOptions options;
  options.threads = 3;
  EXPECT_EQ(read_directly(plan, files, into_found, options), (512u + 200) * 1024 * 2 + 2 * 512 * 512 * 2);
  for (uint32_t i = 0; i < files.size(); ++i) {
    if (files[i]) {
      EXPECT_TRUE(std::ranges::equal(into_found[i], into_expected[i])) << i;
    } else {
      EXPECT_EQ(into_found[i][0], std::byte{0xAB}) << i;
    }
  }
}

TEST_F(DirectRead, AFileThatEndsEarlyIsNamed) {
  PlanBuilder builder(stored_);
  builder.add({0, 0, 0}, {3, 1024, 512}, DType::kBF16, {box(2, {0, 0, 0}, {3, 1024, 512}, {0, 0, 0})}, 0, 0);
  const TransferPlan plan = builder.finish_virtual();
  std::filesystem::resize_file(stored_.files[1], 1 << 20);
  const Buffer memory(plan.targets[0].num_bytes());
  const std::vector<std::span<std::byte>> into{memory.bytes()};
  try {
    read_directly(plan, {true}, into, {});
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find(stored_.files[1].string()), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace viaduct::bridge
