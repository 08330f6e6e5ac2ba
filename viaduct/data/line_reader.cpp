#include "viaduct/data/line_reader.h"

#include <algorithm>

namespace viaduct::data {

LineReader::LineReader(std::vector<Path> files, LinePosition begin) : files_(std::move(files)), at_(begin) {}

std::optional<LineBlock> LineReader::next() {
  for (; at_.file < files_.size(); at_ = {at_.file + 1, 0, 0}, file_ = File()) {
    if (!file_.is_open()) file_ = File::open(files_[at_.file], File::Mode::kRead);
    LineBlock block;
    block.begin = at_;
    size_t end = 0;  // behind the last whole line
    bool more = true;
    while (more && end == 0) {
      const size_t before = block.text.size();
      block.text.resize(before + kBlockBytes);
      const auto to = std::as_writable_bytes(std::span(block.text)).subspan(before);
      const size_t count = file_.read_some(at_.offset + before, to);
      block.text.resize(before + count);
      more = count == kBlockBytes;
      end = block.text.rfind('\n') + 1;  // npos + 1 is 0
    }
    if (!more) end = block.text.size();
    if (end == 0) continue;
    block.text.resize(end);
    const auto lines = std::count(block.text.begin(), block.text.end(), '\n') + (block.text.back() != '\n');
    at_ = {at_.file, at_.offset + end, at_.line + lines};
    block.end = at_;
    return block;
  }
  return std::nullopt;
}

}  // namespace viaduct::data
