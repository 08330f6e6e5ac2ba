// Every collective among 2 and 4 ranks, in all element types that the model uses.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <chrono>
#include <iostream>
#include <numeric>

#include "tests/dist/dist_world.h"
#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

using test::world;
using ::testing::HasSubstr;

const at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kLong};
const at::ScalarType kMovedTypes[] = {at::kFloat, at::kBFloat16, at::kLong,  at::kInt,
                                      at::kByte,  at::kBool,     at::kDouble};

// Small whole numbers, exact in every type, other ones on every rank.
at::Tensor values(int rank, at::IntArrayRef sizes, at::ScalarType type) {
  const int64_t count = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  const at::Tensor numbers = at::arange(count, at::kLong).mul(3).add(7 * rank).remainder(11).view(sizes);
  return numbers.to(world().device(), type == at::kBool ? at::kLong : type).to(type);
}

void expect_equal(const at::Tensor& found, const at::Tensor& expected) {
  ASSERT_EQ(found.scalar_type(), expected.scalar_type());
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_TRUE(at::equal(found, expected)) << found << "\nexpected " << expected;
}

// The tensor-parallel groups of 2 ranks and of all ranks; the layouts are made once, by all ranks.
const std::vector<Group>& groups() {
  static const std::vector<Group> all = [] {
    std::vector<Group> result{world().mesh({.tp = 2}).tp};
    if (world().size() > 2) result.push_back(world().mesh({.tp = world().size()}).tp);
    return result;
  }();
  return all;
}

// What every member of the group holds.
std::vector<at::Tensor> of_all(const Group& group, at::IntArrayRef sizes, at::ScalarType type) {
  std::vector<at::Tensor> result;
  for (int i = 0; i < group.size(); ++i) result.push_back(values(i, sizes, type));
  return result;
}

TEST(Collectives, AllReduce) {
  for (const Group& group : groups())
    for (const at::ScalarType type : kTypes)
      for (const Reduce reduce : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
        const auto all = of_all(group, {5, 3}, type);
        at::Tensor expected = all[0];
        for (size_t i = 1; i < all.size(); ++i)
          expected = reduce == Reduce::kSum   ? expected + all[i]
                     : reduce == Reduce::kMax ? at::maximum(expected, all[i])
                                              : at::minimum(expected, all[i]);
        at::Tensor mine = values(group.rank(), {5, 3}, type);
        group.all_reduce(mine, reduce);
        expect_equal(mine, expected);
      }
}

TEST(Collectives, AverageAndTensorsThatAreNotContiguous) {
  for (const Group& group : groups()) {
    at::Tensor average = at::full({4}, static_cast<double>(group.rank()), at::TensorOptions(world().device()));
    group.all_reduce(average, Reduce::kAverage);
    expect_equal(average, at::full_like(average, (group.size() - 1) / 2.0));
    at::Tensor base = values(group.rank(), {4, 6}, at::kFloat);
    at::Tensor columns = base.t();
    group.all_reduce(columns);
    expect_equal(base, at::stack(of_all(group, {4, 6}, at::kFloat)).sum(0));
    at::Tensor part = values(group.rank(), {4, 6}, at::kFloat).narrow(1, 2, 2);
    group.broadcast(part, 1);
    expect_equal(part, values(1, {4, 6}, at::kFloat).narrow(1, 2, 2));
  }
}

TEST(Collectives, AllGather) {
  for (const Group& group : groups())
    for (const at::ScalarType type : kMovedTypes)
      for (const int64_t dim : {0, 1, 2, -1})
        expect_equal(group.all_gather(values(group.rank(), {2, 3, 5}, type), dim),
                     at::cat(of_all(group, {2, 3, 5}, type), dim));
}

TEST(Collectives, ReduceScatter) {
  for (const Group& group : groups())
    for (const at::ScalarType type : kTypes)
      for (const int64_t dim : {0, 1}) {
        const int64_t rows = 3 * group.size();
        const at::Tensor sum = at::stack(of_all(group, {rows, rows}, type)).sum(0, false, type);
        expect_equal(group.reduce_scatter(values(group.rank(), {rows, rows}, type), dim),
                     sum.narrow(dim, 3 * group.rank(), 3).contiguous());
      }
}

// Rank i sends (i + 2 j) % 4 rows to rank j: some none, some a few; and a case where some send or receive nothing.
TEST(Collectives, UnevenAllToAll) {
  for (const Group& group : groups())
    for (const at::ScalarType type : kMovedTypes)
      for (const bool only_to_last : {false, true}) {
        const int size = group.size();
        const auto rows = [&](int from, int to) -> int64_t {
          if (only_to_last) return to == size - 1 && from != 0 ? 2 : 0;
          return (from + 2 * to) % 4;
        };
        std::vector<int64_t> sent, received;
        std::vector<at::Tensor> expected;
        for (int other = 0; other < size; ++other) {
          sent.push_back(rows(group.rank(), other));
          received.push_back(rows(other, group.rank()));
          int64_t before = 0, total = 0;
          for (int to = 0; to < size; ++to) {
            if (to < group.rank()) before += rows(other, to);
            total += rows(other, to);
          }
          expected.push_back(values(other, {total, 3}, type).narrow(0, before, received.back()));
        }
        const int64_t total = std::accumulate(sent.begin(), sent.end(), int64_t{0});
        expect_equal(group.all_to_all(values(group.rank(), {total, 3}, type), received, sent), at::cat(expected));
      }
}

TEST(Collectives, BroadcastAndBarrier) {
  for (const Group& group : groups())
    for (int root = 0; root < group.size(); ++root)
      for (const at::ScalarType type : kMovedTypes) {
        at::Tensor tensor = values(group.rank(), {4, 2}, type);
        group.broadcast(tensor, root);
        expect_equal(tensor, values(root, {4, 2}, type));
        group.barrier();
      }
}

TEST(Collectives, SendAndReceiveAroundTheRing) {
  for (const Group& group : groups())
    for (const at::ScalarType type : kMovedTypes) {
      const int next = (group.rank() + 1) % group.size(), before = (group.rank() + group.size() - 1) % group.size();
      at::Tensor received = at::zeros({3, 4}, at::TensorOptions(world().device()).dtype(type));
      if (group.rank() == 0) {
        group.send(values(0, {3, 4}, type), next);
        group.receive(received, before);
      } else {
        group.receive(received, before);
        group.send(values(group.rank(), {3, 4}, type), next);
      }
      expect_equal(received, values(before, {3, 4}, type));
    }
}

// 4 MiB each, more than sockets hold: all send before anybody receives.
TEST(Collectives, SendsThatWereStartedWaitForNobody) {
  for (const Group& group : groups()) {
    const int next = (group.rank() + 1) % group.size(), before = (group.rank() + group.size() - 1) % group.size();
    for (int member = 0; member < group.size(); ++member)
      for (const int tag : {0, 1}) group.connect(member, (member + 1) % group.size(), tag);
    const at::TensorOptions options = at::TensorOptions(world().device()).dtype(at::kFloat);
    std::vector<std::unique_ptr<Transfer>> sent;
    for (const int tag : {0, 1})
      for (const int number : {0, 1})
        sent.push_back(
            group.start_send(at::full({1 << 20}, 100 * tag + 10 * number + group.rank(), options), next, tag));
    for (const int tag : {1, 0})
      for (const int number : {0, 1}) {
        at::Tensor received = at::empty({1 << 20}, options);
        group.receive(received, before, tag);
        expect_equal(received, at::full_like(received, 100 * tag + 10 * number + before));
      }
    for (const auto& sending : sent) sending->wait();
  }
}

// Odd ranks start in the other order: what goes on beside a group is not in step with it. In place, as buckets are.
TEST(Collectives, WhatIsStartedBesideAGroupMayComeInAnyOrder) {
  const Group &here = groups().back(), beside = world().beside(here);
  const int64_t rank = here.rank(), size = here.size(), sum = size * (size - 1) / 2;
  const at::TensorOptions options = at::TensorOptions(world().device()).dtype(at::kFloat);
  const at::Tensor first = at::full({5}, rank, options), second = at::full({5}, 10 * rank, options);
  std::vector<std::unique_ptr<Transfer>> started;
  const auto start_first = [&] { started.push_back(here.start_all_reduce(first)); };
  const auto start_second = [&] { started.push_back(beside.start_all_reduce(second)); };
  rank % 2 == 0 ? start_first() : start_second();
  rank % 2 == 0 ? start_second() : start_first();
  for (const auto& transfer : started) transfer->wait();
  expect_equal(first, at::full_like(first, sum));
  expect_equal(second, at::full_like(second, 10 * sum));

  const at::Tensor rows = at::arange(3 * size, options) * (rank + 1), own = rows.narrow(0, 3 * rank, 3);
  const at::Tensor total = at::arange(3 * size, options) * (sum + size);
  beside.start_reduce_scatter(own, rows)->wait();
  expect_equal(own, total.narrow(0, 3 * rank, 3));
  beside.start_all_gather(rows, own)->wait();
  expect_equal(rows, total);
}

TEST(Collectives, EmptyTensors) {
  for (const Group& group : groups()) {
    const at::TensorOptions options = at::TensorOptions(world().device()).dtype(at::kFloat);
    at::Tensor empty = at::empty({0, 3}, options);
    group.all_reduce(empty);
    group.broadcast(empty, 0);
    EXPECT_EQ(group.all_gather(empty, 0).sizes(), (std::vector<int64_t>{0, 3}));
    EXPECT_EQ(group.reduce_scatter(empty, 0).sizes(), (std::vector<int64_t>{0, 3}));
    const std::vector<int64_t> none(static_cast<size_t>(group.size()), 0);
    EXPECT_EQ(group.all_to_all(empty, none, none).sizes(), (std::vector<int64_t>{0, 3}));
  }
}

// fp32 accumulation: a half-precision sum that loses its small terms when rounded after each addition.
TEST(Collectives, ReduceScatterRoundsOnce) {
  const Group& group = groups().back();
  if (!world().device().is_cpu() || group.size() < 4) GTEST_SKIP() << "of Gloo, among 4 ranks";
  const at::Tensor mine = at::full({group.size()}, group.rank() == 0 ? 256.0 : 0.75, at::kBFloat16);
  expect_equal(group.reduce_scatter(mine, 0),
               at::full({1}, 258.0, at::kBFloat16));  // 258.25; 256 if rounded each time
}

TEST(Collectives, WrongDevicesAndCountsAreErrors) {
  const Group& group = groups()[0];
  at::Tensor elsewhere = at::empty({2}, at::TensorOptions(at::kMeta).dtype(at::kFloat));
  try {
    group.all_reduce(elsewhere);
    FAIL() << "no error";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("all_reduce of group \"tensor parallel\" got a tensor on meta"));
  }
  EXPECT_THROW(group.all_to_all(values(0, {4, 2}, at::kFloat), {1, 1}, {1, 1}), InternalError);
  EXPECT_THROW(group.reduce_scatter(values(0, {3, 2}, at::kFloat), 0), InternalError);
  at::Tensor tensor = values(0, {2}, at::kFloat);
  EXPECT_THROW(group.send(tensor, group.rank()), InternalError);
  EXPECT_THROW(group.broadcast(tensor, group.size()), InternalError);
}

TEST(Collectives, Latency) {
  const Group& group = groups()[0];
  at::Tensor one = at::ones({1024}, at::TensorOptions(world().device()));
  group.all_reduce(one);
  const auto start = std::chrono::steady_clock::now();
  constexpr int kTimes = 200;
  for (int i = 0; i < kTimes; ++i) group.all_reduce(one, Reduce::kMax);
  group.barrier();
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
  EXPECT_LT(time.count() / kTimes, 2'000'000);  // a broken transport, not a measurement: machines are busy
  if (world().rank() == 0) std::cout << "all_reduce of 4 KiB among 2 ranks: " << time.count() / kTimes << " us\n";
}

}  // namespace
}  // namespace viaduct::parallel
