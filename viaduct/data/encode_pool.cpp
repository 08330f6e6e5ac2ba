#include "viaduct/data/encode_pool.h"

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"

namespace viaduct::data {

namespace {

EncodedText encode_value(const Json& value, const PreprocessOptions& options, const TextEncoder& encoder) {
  EncodedText encoded;
  const auto add = [&](const Json& text) {
    const std::vector<int32_t> tokens = encoder.encode(text.as_string());
    if (tokens.empty()) return;  // a sequence has tokens
    encoded.tokens.insert(encoded.tokens.end(), tokens.begin(), tokens.end());
    encoded.lengths.push_back(static_cast<int32_t>(tokens.size()));
  };
  if (value.is_array()) {
    for (const Json& sentence : value.items()) add(sentence);
  } else {
    add(value);
  }
  if (options.append_eod && !encoded.tokens.empty()) {
    encoded.tokens.push_back(*encoder.eod);
    ++encoded.lengths.back();
  }
  return encoded;
}

}  // namespace

EncodedBlock encode_block(const LineBlock& block, const PreprocessOptions& options, const TextEncoder& encoder) {
  EncodedBlock encoded;
  encoded.end = block.end;
  encoded.bytes = block.text.size();
  std::string_view rest = block.text;
  for (int64_t line = block.begin.line + 1; !rest.empty(); ++line) {
    const size_t end = std::min(rest.find('\n'), rest.size() - 1) + 1;
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(end);
    const std::string origin = fmt::format("{}:{}", options.input[block.begin.file].string(), line);
    const Json document = Json::parse(text, origin);
    try {
      for (const std::string& key : options.json_keys)
        encoded.texts.push_back(encode_value(document.at(key), options, encoder));
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}", origin, error.what()));
    }
  }
  return encoded;
}

EncodePool::EncodePool(const PreprocessOptions& options, const TextEncoder& encoder)
    : options_(options), encoder_(encoder) {
  for (int i = 0; i < options.workers; ++i) threads_.emplace_back([this] { work(); });
}

EncodePool::~EncodePool() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
    tasks_.clear();
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::future<EncodedBlock> EncodePool::add(LineBlock block) {
  std::packaged_task<EncodedBlock()> task(
      [this, block = std::move(block)] { return encode_block(block, options_, encoder_); });
  std::future<EncodedBlock> result = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
  return result;
}

void EncodePool::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    std::packaged_task<EncodedBlock()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
  }
}

}  // namespace viaduct::data
