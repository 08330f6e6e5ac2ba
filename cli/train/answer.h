// Answer: the text of a sequence as its tokens come, up to a stop string.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "viaduct/infer/stop_strings.h"
#include "viaduct/text/stream_decoder.h"

namespace viaduct::cli {

/// Collects and, when asked to, prints.
class Answer {
 public:
  Answer(const text::Tokenizer& tokenizer, const std::vector<std::string>& stop, bool prints)
      : decoder_(tokenizer, /*skip_special_tokens=*/true), stop_(stop), prints_(prints) {}

  /// False once a stop string has come.
  bool push(int32_t id) {
    show(stop_.push(decoder_.push(id)));
    return !stop_.stopped();
  }
  /// All tokens have come.
  void finish() {
    show(stop_.push(decoder_.finish()));
    if (!stop_.stopped()) show(stop_.finish());
  }
  const std::string& text() const { return text_; }
  bool stopped() const { return stop_.stopped(); }

 private:
  void show(const std::string& piece) {
    text_ += piece;
    if (!prints_ || piece.empty()) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  text::StreamDecoder decoder_;
  infer::StopStrings stop_;
  bool prints_;
  std::string text_;
};

}  // namespace viaduct::cli
