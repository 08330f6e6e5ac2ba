#include "viaduct/data/jsonl_file.h"

#include <algorithm>
#include <cstring>

#include "viaduct/core/error.h"

namespace viaduct::data {
namespace {

constexpr size_t kScanBlock = 1u << 20;
constexpr size_t kReadBlock = 1u << 14;
constexpr size_t kMaxBegins = 1u << 20;
constexpr uint64_t kMaxLine = 1u << 30;

bool has_content(const char* begin, const char* end) {
  return std::any_of(begin, end, [](char c) { return c != ' ' && c != '\t' && c != '\r'; });
}

}  // namespace

JsonlFile::JsonlFile(const Path& path) : file_(File::open(path, File::Mode::kRead)) {
  std::string block(kScanBlock, '\0');
  int64_t line = 0;  // that the next byte belongs to
  bool begins = true, content = false;
  const auto end_line = [&] {
    if (content) size_ = line + 1;
    ++line;
    begins = true;
    content = false;
  };
  for (;;) {
    const size_t got = file_.read_some(bytes_, std::as_writable_bytes(std::span(block)));
    if (got == 0) break;
    for (size_t at = 0; at < got;) {
      if (begins && line % (int64_t{1} << shift_) == 0) {
        if (begins_.size() == kMaxBegins) {  // from now on every second one
          for (size_t i = 0; i < kMaxBegins / 2; ++i) begins_[i] = begins_[2 * i];
          begins_.resize(kMaxBegins / 2);
          ++shift_;
        }
        if (line % (int64_t{1} << shift_) == 0) begins_.push_back(bytes_ + at);
      }
      begins = false;
      const char* from = block.data() + at;
      const auto* end = static_cast<const char*>(std::memchr(from, '\n', got - at));
      const char* to = end ? end : block.data() + got;
      content = content || has_content(from, to);
      at = static_cast<size_t>(to - block.data()) + (end ? 1 : 0);
      if (end) end_line();
    }
    bytes_ += got;
  }
  end_line();
  VIADUCT_USER_CHECK(size_ > 0, "{} has no lines: a file of one JSON object a line is wanted", path.string());
}

std::string JsonlFile::place(int64_t i) const { return fmt::format("{}: line {}", path().string(), i + 1); }

std::string JsonlFile::text(int64_t i) const {
  VIADUCT_USER_CHECK(i >= 0 && i < size_, "{} has {} lines; line {} was asked for", path().string(), size_, i + 1);
  uint64_t at = begins_[static_cast<size_t>(i >> shift_)];
  int64_t to_pass = i - (i >> shift_ << shift_);
  std::string line;
  std::string block(kReadBlock, '\0');
  for (; at < bytes_; at += block.size()) {
    block.resize(static_cast<size_t>(std::min<uint64_t>(kReadBlock, bytes_ - at)));
    file_.read(at, std::as_writable_bytes(std::span(block)));
    size_t from = 0;
    for (size_t end = 0; to_pass > 0 && (end = block.find('\n', from)) != std::string::npos; --to_pass)
      from = end + 1;
    if (to_pass > 0) continue;
    const size_t end = block.find('\n', from);
    line.append(block, from, end - from);
    if (end != std::string::npos) break;
    VIADUCT_USER_CHECK(line.size() <= kMaxLine, "{} is longer than {} bytes", place(i), kMaxLine);
  }
  return line;
}

Json JsonlFile::line(int64_t i) const {
  const std::string content = text(i);
  VIADUCT_USER_CHECK(has_content(content.data(), content.data() + content.size()), "{} is empty: remove it",
                     place(i));
  Json json = Json::parse(content, place(i));
  VIADUCT_USER_CHECK(json.is_object(), "{} is no JSON object ({{...}})", place(i));
  return json;
}

}  // namespace viaduct::data
