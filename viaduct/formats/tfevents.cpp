#include "viaduct/formats/tfevents.h"

#include <algorithm>
#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/formats/protobuf.h"
#include "viaduct/formats/tfevents_framing.h"

namespace viaduct::formats {
namespace {

constexpr size_t kHeader = 12;  // length and its checksum
constexpr uint64_t kMaxRecord = 256u << 20;
constexpr size_t kBlock = 1u << 20;

template <class T>
T number_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Repeated numbers, which are packed or come one by one.
void append_doubles(const ProtoReader& field, std::vector<double>& to) {
  if (!field.is_bytes()) return to.push_back(field.double_real());
  const std::string_view packed = field.bytes();
  if (packed.size() % sizeof(double) != 0) field.fail("a list of doubles of another size");
  for (size_t at = 0; at < packed.size(); at += sizeof(double)) to.push_back(number_at<double>(packed, at));
}

EventHistogram read_histogram(ProtoReader message) {
  EventHistogram histogram;
  while (message.next()) {
    switch (message.number()) {
      case histogram_field::kMin: histogram.min = message.double_real(); break;
      case histogram_field::kMax: histogram.max = message.double_real(); break;
      case histogram_field::kCount: histogram.count = message.double_real(); break;
      case histogram_field::kSum: histogram.sum = message.double_real(); break;
      case histogram_field::kSumOfSquares: histogram.sum_of_squares = message.double_real(); break;
      case histogram_field::kLimits: append_doubles(message, histogram.limits); break;
      case histogram_field::kCounts: append_doubles(message, histogram.counts); break;
      default: break;
    }
  }
  if (histogram.limits.size() != histogram.counts.size()) message.fail("a histogram with unequal lists");
  return histogram;
}

// A tensor of one number or text; nullopt for others.
std::optional<decltype(EventValue::value)> read_tensor(ProtoReader message) {
  int64_t type = 0;
  std::string content, text;
  std::vector<double> doubles;
  std::vector<float> floats;
  size_t texts = 0;
  while (message.next()) {
    switch (message.number()) {
      case tensor_field::kType: type = message.integer(); break;
      case tensor_field::kContent: content = message.text(); break;
      case tensor_field::kFloats:
        if (!message.is_bytes())
          floats.push_back(message.real());
        else if (message.bytes().size() == sizeof(float))
          floats.push_back(number_at<float>(message.bytes(), 0));
        break;
      case tensor_field::kDoubles: append_doubles(message, doubles); break;
      case tensor_field::kStrings:
        text = message.text();
        ++texts;
        break;
      default: break;
    }
  }
  if (type == kTensorString && texts == 1) return text;
  if (type == kTensorFloat && floats.size() == 1) return floats[0];
  if (type == kTensorFloat && content.size() == sizeof(float)) return number_at<float>(content, 0);
  if (type == kTensorDouble && doubles.size() == 1) return static_cast<float>(doubles[0]);
  if (type == kTensorDouble && content.size() == sizeof(double))
    return static_cast<float>(number_at<double>(content, 0));
  return std::nullopt;
}

void read_value(ProtoReader message, std::vector<EventValue>& to) {
  std::string tag;
  std::optional<decltype(EventValue::value)> value;
  while (message.next()) {
    switch (message.number()) {
      case summary_field::kTag: tag = message.text(); break;
      case summary_field::kSimpleValue: value = message.real(); break;
      case summary_field::kHistogram: value = read_histogram(message.message()); break;
      case summary_field::kTensor: value = read_tensor(message.message()); break;
      default: break;
    }
  }
  if (value) to.push_back({std::move(tag), std::move(*value)});
}

Event read_event(ProtoReader message) {
  Event event;
  while (message.next()) {
    switch (message.number()) {
      case event_field::kWallTime: event.wall_time = message.double_real(); break;
      case event_field::kStep: event.step = message.integer(); break;
      case event_field::kFileVersion: event.file_version = message.text(); break;
      case event_field::kSummary:
        for (ProtoReader summary = message.message(); summary.next();)
          if (summary.number() == summary_field::kValue) read_value(summary.message(), event.values);
        break;
      default: break;
    }
  }
  return event;
}

}  // namespace

size_t parse_events(std::string_view text, uint64_t offset, const std::string& origin,
                    const std::function<void(Event)>& each) {
  const ProtoOrigin proto_origin{origin, "event of TensorBoard's"};
  size_t at = 0;
  while (text.size() - at >= kHeader) {
    const auto length = number_at<uint64_t>(text, at);
    VIADUCT_USER_CHECK(number_at<uint32_t>(text, at + 8) == masked_crc(text.substr(at, 8)),
                       "{}: the checksum of the length of the record at byte {} is wrong: this is no event file of "
                       "TensorBoard's, or it is damaged",
                       origin, offset + at);
    VIADUCT_USER_CHECK(length <= kMaxRecord, "{}: the record at byte {} has {} bytes, more than {} are not read",
                       origin, offset + at, length, kMaxRecord);
    if (text.size() - at - kHeader < length + 4) break;
    const std::string_view event = text.substr(at + kHeader, static_cast<size_t>(length));
    VIADUCT_USER_CHECK(number_at<uint32_t>(text, at + kHeader + event.size()) == masked_crc(event),
                       "{}: the checksum of the record at byte {} is wrong: the file is damaged", origin,
                       offset + at);
    each(read_event(ProtoReader(event, static_cast<size_t>(offset) + at + kHeader, proto_origin)));
    at += kHeader + event.size() + 4;
  }
  return at;
}

uint64_t read_events(const Path& file, const std::function<void(Event)>& each) {
  const File opened = File::open(file, File::Mode::kRead);
  std::string waiting;
  uint64_t done = 0;
  for (;;) {
    const size_t before = waiting.size();
    waiting.resize(before + std::max(kBlock, before));  // long records: twice the bytes each time
    const size_t got = opened.read_some(done + before, std::as_writable_bytes(std::span(waiting)).subspan(before));
    waiting.resize(before + got);
    const size_t whole = parse_events(waiting, done, file.string(), each);
    done += whole;
    if (got == 0) return done;
    waiting.erase(0, whole);
  }
}

}  // namespace viaduct::formats
