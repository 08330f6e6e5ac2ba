// What the Python tests of training's arithmetic ask: one JSON request a line on stdin, one JSON answer a line on
// stdout; {"error": TEXT} for what is refused.
//
//   {"schedule": OPTIONS, "group": OVERRIDE, "steps": [SAMPLES...], "load": STATE}   rates before the first and
//   after each step, and the state
//   {"batches": OPTIONS, "at": [SAMPLES...]}                                         [global, running,
//   microbatches]
//   {"write_events": [EVENT...], "folder": PATH, "host": TEXT}                       the file's path
//   {"read_events": PATH}                                                            its events
#include <iostream>

#include "viaduct/core/json.h"
#include "viaduct/formats/tfevents.h"
#include "viaduct/optim/param_schedule.h"
#include "viaduct/topology/microbatches.h"

namespace viaduct {
namespace {

using formats::PickleValue;

config::Number number(const Json& json) {
  if (json.is_integer()) return json.as_int();
  return json.as_double();
}

PickleValue pickled(const Json& json) {
  if (json.is_string()) return json.as_string();
  if (json.is_integer()) return json.as_int();
  if (json.is_number()) return json.as_double();
  if (json.is_null()) return nullptr;
  std::vector<PickleValue::Member> members;
  for (const auto& [key, value] : json.members()) members.emplace_back(key, pickled(value));
  return PickleValue::dict(std::move(members));
}

Json json_of(const PickleValue& value) {
  switch (value.kind()) {
    case PickleValue::Kind::kInt: return value.as_int();
    case PickleValue::Kind::kFloat: return value.as_double();
    case PickleValue::Kind::kString: return value.as_string();
    default: break;
  }
  Json out = Json::object();
  for (const auto& [key, member] : value.members()) out.set(key.as_string(), json_of(member));
  return out;
}

optim::ParamScheduleOptions schedule_options(const Json& json) {
  optim::ParamScheduleOptions options;
  for (const auto& [key, value] : json.members()) {
    if (value.is_null()) continue;
    if (key == "init_lr") options.init_lr = value.as_double();
    if (key == "max_lr") options.max_lr = value.as_double();
    if (key == "min_lr") options.min_lr = value.as_double();
    if (key == "lr_warmup_steps") options.lr_warmup_steps = number(value);
    if (key == "lr_decay_steps") options.lr_decay_steps = value.as_int();
    if (key == "lr_decay_style") options.lr_decay_style = optim::parse_lr_decay_style(value.as_string());
    if (key == "wsd_decay_steps") options.wsd_decay_steps = value.as_int();
    if (key == "lr_wsd_decay_style") options.lr_wsd_decay_style = optim::parse_wsd_decay_style(value.as_string());
    if (key == "start_wd") options.start_wd = value.as_double();
    if (key == "end_wd") options.end_wd = value.as_double();
    if (key == "wd_incr_steps") options.wd_incr_steps = value.as_int();
    if (key == "wd_incr_style") options.wd_incr_style = optim::parse_wd_incr_style(value.as_string());
    if (key == "use_checkpoint_opt_param_scheduler") options.use_checkpoint_opt_param_scheduler = value.as_bool();
    if (key == "override_opt_param_scheduler") options.override_opt_param_scheduler = value.as_bool();
  }
  return options;
}

Json schedule(const Json& request) {
  optim::ParamSchedule schedule(schedule_options(request.at("schedule")));
  optim::ParamGroupOverride group;
  if (const Json* own = request.find("group")) {
    for (const auto& [key, value] : own->members()) {
      if (key == "max_lr") group.max_lr = value.as_double();
      if (key == "min_lr") group.min_lr = value.as_double();
      if (key == "start_wd") group.start_wd = value.as_double();
      if (key == "end_wd") group.end_wd = value.as_double();
      if (key == "wd_mult") group.wd_mult = value.as_double();
    }
  }
  if (const Json* state = request.find("load")) schedule.load(pickled(*state), "checkpoint");
  std::vector<Json> lr, wd;
  const auto note = [&] {
    lr.emplace_back(schedule.lr(group));
    wd.emplace_back(schedule.weight_decay(group));
  };
  note();
  for (const Json& samples : request.at("steps").items()) {
    schedule.step(samples.as_int());
    note();
  }
  return Json::object({{"lr", Json::array(std::move(lr))},
                       {"wd", Json::array(std::move(wd))},
                       {"state", json_of(schedule.state())}});
}

Json batches(const Json& request) {
  topology::BatchOptions options;
  for (const auto& [key, value] : request.at("batches").members()) {
    if (value.is_null()) continue;
    if (key == "micro_batch_size") options.micro_batch_size = value.as_int();
    if (key == "data_parallel_size") options.data_parallel_size = value.as_int();
    if (key == "global_batch_size") options.global_batch_size = value.as_int();
    if (key == "decrease_batch_size_if_needed") options.decrease_batch_size_if_needed = value.as_bool();
    if (key == "step_batch_size_schedule") options.step_batch_size_schedule = value.as_string();
    if (key == "seq_length") options.seq_length = value.as_int();
    if (key == "rampup_batch_size") {
      options.rampup_batch_size.emplace();
      for (const Json& item : value.items()) options.rampup_batch_size->push_back(item.as_int());
    }
  }
  const topology::BatchSchedule schedule(options);
  std::vector<Json> out;
  for (const Json& samples : request.at("at").items()) {
    try {
      const topology::BatchSizes sizes = schedule.at(samples.as_int());
      out.push_back(Json::array({sizes.global, sizes.running, sizes.num_microbatches}));
    } catch (const UserError& error) {
      out.push_back(error.what());
    }
  }
  return Json::array(std::move(out));
}

std::vector<double> doubles(const Json& json) {
  std::vector<double> out;
  for (const Json& item : json.items()) out.push_back(item.as_double());
  return out;
}

Json doubles(const std::vector<double>& values) {
  std::vector<Json> out(values.begin(), values.end());
  return Json::array(std::move(out));
}

Json write_events(const Json& request) {
  formats::EventWriter writer(request.at("folder").as_string(),
                              {.queue_size = 7, .host = request.at("host").as_string()});
  for (const Json& event : request.at("write_events").items()) {
    const std::string& tag = event.at("tag").as_string();
    const int64_t step = event.at("step").as_int();
    const double time = event.at("time").as_double();
    if (const Json* scalar = event.find("scalar")) {
      writer.add_scalar(tag, scalar->as_double(), step, time);
    } else if (const Json* text = event.find("text")) {
      writer.add_text(tag, text->as_string(), step, time);
    } else {
      const Json& h = event.at("histogram");
      writer.add_histogram(tag,
                           {.min = h.at("min").as_double(),
                            .max = h.at("max").as_double(),
                            .count = h.at("count").as_double(),
                            .sum = h.at("sum").as_double(),
                            .sum_of_squares = h.at("sum_of_squares").as_double(),
                            .limits = doubles(h.at("limits")),
                            .counts = doubles(h.at("counts"))},
                           step, time);
    }
  }
  const std::string path = writer.path().string();
  writer.close();
  return path;
}

Json read_events(const Json& request) {
  std::vector<Json> out;
  const uint64_t whole = formats::read_events(request.at("read_events").as_string(), [&](formats::Event event) {
    std::vector<Json> values;
    for (const formats::EventValue& value : event.values) {
      Json item = Json::object({{"tag", value.tag}});
      if (const auto* scalar = std::get_if<float>(&value.value)) item.set("scalar", double{*scalar});
      if (const auto* text = std::get_if<std::string>(&value.value)) item.set("text", *text);
      if (const auto* h = std::get_if<formats::EventHistogram>(&value.value))
        item.set(
            "histogram",
            Json::object({{"count", h->count}, {"limits", doubles(h->limits)}, {"counts", doubles(h->counts)}}));
      values.push_back(std::move(item));
    }
    out.push_back(Json::object({{"time", event.wall_time},
                                {"step", event.step},
                                {"version", event.file_version},
                                {"values", Json::array(std::move(values))}}));
  });
  return Json::object({{"events", Json::array(std::move(out))}, {"bytes", static_cast<int64_t>(whole)}});
}

Json answer(const Json& request) {
  if (request.contains("schedule")) return schedule(request);
  if (request.contains("batches")) return batches(request);
  if (request.contains("write_events")) return write_events(request);
  return read_events(request);
}

}  // namespace
}  // namespace viaduct

int main() {
  using namespace viaduct;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << answer(Json::parse(line, "request")).dump() << std::endl;
    } catch (const UserError& error) {
      std::cout << Json::object({{"error", error.what()}}).dump() << std::endl;
    }
  }
  return 0;
}
