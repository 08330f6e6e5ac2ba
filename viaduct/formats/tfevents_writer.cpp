#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/protobuf.h"
#include "viaduct/formats/tfevents.h"
#include "viaduct/formats/tfevents_framing.h"

namespace viaduct::formats {
namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string this_host() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

template <class T>
void append_number(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> (8 * i));
}

std::string packed(const std::vector<double>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double)};
}

// Summary.Value with its tag.
ProtoWriter tagged(std::string_view tag) {
  VIADUCT_USER_CHECK(is_utf8(tag), "TensorBoard: a tag is not UTF-8: '{}'", tag);
  ProtoWriter value;
  value.bytes(summary_field::kTag, tag);
  return value;
}

}  // namespace

EventWriter::EventWriter(const Path& folder, EventWriterOptions options) : options_(std::move(options)) {
  static std::atomic<int> count{0};
  std::filesystem::create_directories(folder);
  const std::string host = options_.host.empty() ? this_host() : options_.host;
  Path path;
  do {
    path = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(seconds_since_1970()),
                                host, ::getpid(), count++);
  } while (std::filesystem::exists(path));
  file_ = File::open(path, File::Mode::kWrite);
  ProtoWriter first;
  first.double_real(event_field::kWallTime, seconds_since_1970())
      .bytes(event_field::kFileVersion, kEventFileVersion);
  append_record(first.content());
  write_waiting();
}

EventWriter::~EventWriter() {
  try {
    if (file_.is_open()) write_waiting();
  } catch (const std::exception&) {  // a destructor has nobody to tell
  }
}

void EventWriter::add_scalar(std::string_view tag, double value, int64_t step, std::optional<double> wall_time) {
  ProtoWriter message = tagged(tag);
  message.real(summary_field::kSimpleValue, static_cast<float>(value));
  add(message.content(), step, wall_time);
}

void EventWriter::add_text(std::string_view tag, std::string_view text, int64_t step,
                           std::optional<double> wall_time) {
  VIADUCT_USER_CHECK(is_utf8(text), "TensorBoard: the text of '{}' is not UTF-8", tag);
  ProtoWriter dim, shape, tensor, plugin, metadata;
  dim.integer(tensor_field::kSize, 1);
  shape.message(tensor_field::kDim, dim);
  tensor.integer(tensor_field::kType, kTensorString).message(tensor_field::kShape, shape);
  tensor.bytes(tensor_field::kStrings, text);
  plugin.bytes(metadata_field::kPluginName, "text");
  metadata.message(metadata_field::kPluginData, plugin);
  ProtoWriter message = tagged(std::string(tag) + "/text_summary");
  message.message(summary_field::kTensor, tensor).message(summary_field::kMetadata, metadata);
  add(message.content(), step, wall_time);
}

void EventWriter::add_histogram(std::string_view tag, const EventHistogram& histogram, int64_t step,
                                std::optional<double> wall_time) {
  VIADUCT_CHECK_EQ(histogram.limits.size(), histogram.counts.size(), "the histogram '{}'", tag);
  ProtoWriter content;
  content.double_real(histogram_field::kMin, histogram.min).double_real(histogram_field::kMax, histogram.max);
  content.double_real(histogram_field::kCount, histogram.count).double_real(histogram_field::kSum, histogram.sum);
  content.double_real(histogram_field::kSumOfSquares, histogram.sum_of_squares);
  content.bytes(histogram_field::kLimits, packed(histogram.limits));
  content.bytes(histogram_field::kCounts, packed(histogram.counts));
  ProtoWriter message = tagged(tag);
  message.message(summary_field::kHistogram, content);
  add(message.content(), step, wall_time);
}

void EventWriter::add(const std::string& value, int64_t step, std::optional<double> wall_time) {
  ProtoWriter summary, event;
  summary.bytes(summary_field::kValue, value);
  event.double_real(event_field::kWallTime, wall_time ? *wall_time : seconds_since_1970());
  if (step != 0) event.integer(event_field::kStep, step);
  event.message(event_field::kSummary, summary);
  const std::lock_guard lock(mutex_);
  VIADUCT_CHECK(file_.is_open(), "an event for {}, which is closed", file_.path().string());
  append_record(event.content());
  if (waiting_count_ >= options_.queue_size || steady_seconds() - waiting_since_ >= options_.flush_seconds)
    write_waiting();
}

void EventWriter::append_record(std::string_view event) {
  if (waiting_count_++ == 0) waiting_since_ = steady_seconds();
  std::string length;
  append_number(length, uint64_t{event.size()});
  waiting_ += length;
  append_number(waiting_, masked_crc(length));
  waiting_ += event;
  append_number(waiting_, masked_crc(event));
}

void EventWriter::write_waiting() {
  if (waiting_.empty()) return;
  file_.write(size_, std::as_bytes(std::span(waiting_)));
  size_ += waiting_.size();
  waiting_.clear();
  waiting_count_ = 0;
}

void EventWriter::flush() {
  const std::lock_guard lock(mutex_);
  if (file_.is_open()) write_waiting();
}

void EventWriter::close() {
  const std::lock_guard lock(mutex_);
  if (!file_.is_open()) return;
  write_waiting();
  file_.sync();
  file_.close();
}

}  // namespace viaduct::formats
