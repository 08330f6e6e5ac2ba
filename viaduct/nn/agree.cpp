#include "viaduct/nn/agree.h"

#include <ATen/ATen.h>

#include <cstring>
#include <exception>
#include <string>

namespace viaduct::nn {

namespace {

constexpr size_t kLongestMessage = 16 << 10;
constexpr size_t kShared = 64 << 20;  // bytes at a time

}  // namespace

void agree(const parallel::Group& group, c10::Device device, const std::function<void()>& work) {
  if (group.alone()) return work();
  std::exception_ptr error;
  std::string message;
  try {
    work();
  } catch (const std::exception& failure) {
    error = std::current_exception();  // thrown again below
    message = failure.what();
    if (message.empty()) message = "an error without a message";
    message.resize(std::min(message.size(), kLongestMessage));
  }
  const at::Tensor mine = at::full({1}, static_cast<int64_t>(message.size()), at::kLong).to(device);
  const at::Tensor lengths = group.all_gather(mine, 0).cpu();
  int first = 0;
  while (first < group.size() && lengths[first].item<int64_t>() == 0) ++first;
  if (first == group.size()) return;
  const int64_t length = lengths[first].item<int64_t>();
  at::Tensor text = at::empty({length}, at::kByte);
  if (first == group.rank()) std::memcpy(text.data_ptr(), message.data(), message.size());
  text = text.to(device);
  group.broadcast(text, first);
  text = text.cpu();
  const std::string told(static_cast<const char*>(text.data_ptr()), static_cast<size_t>(length));
  if (error && (group.rank() == first || message != told)) std::rethrow_exception(error);
  throw RankFailed(fmt::format("rank {}: {}", group.global_rank(first), told));
}

void share(const parallel::Group& group, c10::Device device, std::string& bytes) {
  if (group.alone()) return;
  const bool first = group.rank() == 0;
  at::Tensor size = at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong).to(device);
  group.broadcast(size, 0);
  bytes.resize(static_cast<size_t>(size.item<int64_t>()));
  for (size_t begin = 0; begin < bytes.size(); begin += kShared) {
    const size_t count = std::min(kShared, bytes.size() - begin);
    at::Tensor part = at::empty({static_cast<int64_t>(count)}, at::kByte);
    if (first) std::memcpy(part.data_ptr(), bytes.data() + begin, count);
    part = part.to(device);
    group.broadcast(part, 0);
    if (!first) std::memcpy(bytes.data() + begin, part.cpu().data_ptr(), count);
  }
}

}  // namespace viaduct::nn
