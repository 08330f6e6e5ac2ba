// TensorBoard's event files: scalars, texts and histograms by tag and step.
//
// A file is a row of records (length, its masked CRC-32C, an Event message, its masked CRC-32C); the first event
// says "brain.Event:2". Every start of a program writes a file of its own, and TensorBoard joins the files of a
// folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::formats {

/// A distribution: how many values lie between one limit and the next.
struct EventHistogram {
  double min = 0, max = 0;
  double count = 0, sum = 0, sum_of_squares = 0;
  std::vector<double> limits;  // the right edges of the buckets
  std::vector<double> counts;  // one a limit
  bool operator==(const EventHistogram&) const = default;
};

/// One value of an event: a number, a text (markdown) or a distribution.
struct EventValue {
  std::string tag;
  std::variant<float, std::string, EventHistogram> value;
  bool operator==(const EventValue&) const = default;
};

/// What was logged at one moment.
struct Event {
  double wall_time = 0;      // seconds since 1970
  int64_t step = 0;          // an iteration or a number of samples
  std::string file_version;  // of the first event of a file, else empty
  std::vector<EventValue> values;
  bool operator==(const Event&) const = default;
};

/// The events of a text that is (a part of) an event file. Values of other kinds (images, sound) are left out;
/// numbers and texts may be in the older or the newer form. `offset` is where the text begins in the file. Returns
/// the bytes of the records that are whole: the last one may be in the middle of being written. UserError with the
/// byte offset for a record whose checksum or content is wrong.
size_t parse_events(std::string_view text, uint64_t offset, const std::string& origin,
                    const std::function<void(Event)>& each);
/// The events of a file, in a few MiB of memory. UserError as parse_events; a record that is cut off at the end is
/// left out, and the number of bytes before it returned.
uint64_t read_events(const Path& file, const std::function<void(Event)>& each);

/// How often a writer writes.
struct EventWriterOptions {
  size_t queue_size = 1000;    // events that wait at most (upstream's tensorboard_queue_size)
  double flush_seconds = 120;  // how long one waits at most, looked at when the next one comes
  std::string host;            // for the file's name; empty: this machine's name
};

/// Writes a new event file; several threads may use one writer. Only whole records are written, at the end: a
/// reader may follow, and what was flushed survives the end of the program.
class EventWriter {
 public:
  /// Creates `folder` and the file events.out.tfevents.<seconds>.<host>.<process>.<count> in it, with its first
  /// event. SystemError when that cannot be done.
  explicit EventWriter(const Path& folder, EventWriterOptions options = {});
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;
  /// Writes what waits, as far as it can; close() reports errors.
  ~EventWriter();

  /// Adds an event with one value. `wall_time` is in seconds since 1970, the clock's unless given. UserError for a
  /// tag or text that is not UTF-8, SystemError when events had to be written and could not.
  void add_scalar(std::string_view tag, double value, int64_t step, std::optional<double> wall_time = {});
  /// The tag gets "/text_summary" at its end, as torch's SummaryWriter writes it.
  void add_text(std::string_view tag, std::string_view text, int64_t step, std::optional<double> wall_time = {});
  /// As add_scalar, of a distribution.
  void add_histogram(std::string_view tag, const EventHistogram& histogram, int64_t step,
                     std::optional<double> wall_time = {});

  /// Writes what waits. SystemError when it cannot; the events then still wait.
  void flush();
  /// flush, and closes the file; nothing may be added afterwards.
  void close();

  /// The file.
  const Path& path() const { return file_.path(); }

 private:
  void add(const std::string& value, int64_t step, std::optional<double> wall_time);
  void append_record(std::string_view event);
  void write_waiting();  // with the lock held

  EventWriterOptions options_;
  std::mutex mutex_;
  File file_;
  uint64_t size_ = 0;    // bytes in the file
  std::string waiting_;  // records
  size_t waiting_count_ = 0;
  double waiting_since_ = 0;
};

}  // namespace viaduct::formats
