#include "viaduct/training/training_log.h"

#include <fmt/format.h>

#include <cmath>

#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::training {

TrainingLog::TrainingLog(TrainingLogOptions options) : options_(std::move(options)) {
  const std::map<std::string_view, double> units{{"seconds", 1}, {"minutes", 60}, {"hours", 3600}, {"days", 86400}};
  runtime_seconds_ = units.at(options_.runtime_time_unit);
  if (options_.tensorboard_dir) {
    std::filesystem::create_directories(*options_.tensorboard_dir);
    events_ = std::make_unique<formats::EventWriter>(*options_.tensorboard_dir);
  }
}

void TrainingLog::add(const IterationReport& report) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - iteration_begin_).count();
  iteration_begin_ = now;
  ++iterations_;
  ++job_iterations_;
  line_samples_ += static_cast<double>(report.global_batch_size);
  window_.push_back({now, report.consumed_samples});
  if (std::ssize(window_) > options_.throughput_window_size) window_.pop_front();
  skipped_ += report.skipped;
  nan_ += report.nan;
  if (!report.skipped && !report.nan) {
    ++counted_;
    for (const auto& [name, loss] : report.losses) sums_[name] += loss;
  }
  if (report.iteration % options_.tensorboard_log_interval == 0) {
    write_json(report, seconds);
    if (events_) write_scalars(report, seconds);
  }
  if (report.iteration % options_.log_interval == 0) print_line(report);
}

void TrainingLog::print_line(const IterationReport& report) {
  const auto now = Clock::now();
  const double whole = std::chrono::duration<double>(now - line_begin_).count();
  std::string line = fmt::format(" [{}] iteration {:8}/{:8} | consumed samples: {:12} |", local_time(),
                                 report.iteration, options_.train_iterations, report.consumed_samples);
  if (report.skipped_samples > 0) line += fmt::format(" skipped samples: {:12} |", report.skipped_samples);
  line += fmt::format(" elapsed time per iteration (ms): {:.1f} |", whole / static_cast<double>(iterations_) * 1e3);
  // Of the whole interval: batches may grow within it.
  const double tflops = options_.flops_per_sample * line_samples_ / whole / 1e12;
  if (options_.log_throughput)
    line += fmt::format(" throughput per GPU (TFLOP/s/GPU): {:.3g} |", tflops / options_.world_size);
  if (events_ && options_.log_throughput_to_tensorboard) {
    events_->add_scalar("throughput/tflops/device", tflops / options_.world_size, report.iteration);
    events_->add_scalar("throughput/tflops", tflops, report.iteration);
  }
  line += fmt::format(" learning rate: {:.6E} | global batch size: {:5} |", report.lr, report.global_batch_size);
  for (const auto& [name, sum] : sums_)
    line += fmt::format(" {}: {:.6E} |", name, sum / static_cast<double>(std::max<int64_t>(counted_, 1)));
  if (options_.log_loss_scale) line += fmt::format(" loss scale: {:.1f} |", report.loss_scale);
  line += fmt::format(" grad norm: {:.3f} |", report.grad_norm);
  if (report.num_zeros) line += fmt::format(" num zeros: {} |", *report.num_zeros);
  if (report.params_norm) line += fmt::format(" params norm: {:.3f} |", *report.params_norm);
  line += fmt::format(" number of skipped iterations: {:3} | number of nan iterations: {:3} |", skipped_, nan_);
  say(line);
  sums_.clear();
  counted_ = iterations_ = skipped_ = nan_ = 0;
  line_samples_ = 0;
  line_begin_ = Clock::now();
}

void TrainingLog::write_json(const IterationReport& report, double seconds) {
  if (!options_.json_lines) return;
  if (!json_) {
    const Path path = std::filesystem::absolute(*options_.json_lines);
    std::filesystem::create_directories(path.parent_path());
    json_.emplace(path, std::filesystem::exists(path) ? std::filesystem::file_size(path) : 0);
  }
  Json losses = Json::object();
  for (const auto& [name, loss] : report.losses) losses.set(name, loss);
  Json line = Json::object({{"iteration", report.iteration},
                            {"consumed_samples", report.consumed_samples},
                            {"global_batch_size", report.global_batch_size},
                            {"lr", report.lr},
                            {"weight_decay", report.weight_decay},
                            {"losses", losses},
                            {"grad_norm", report.grad_norm},
                            {"loss_scale", report.loss_scale},
                            {"skipped", report.skipped},
                            {"seconds", seconds}});
  const std::string text = line.dump() + '\n';
  json_->append(std::as_bytes(std::span(text)));
  json_->flush();
}

void TrainingLog::write_scalars(const IterationReport& report, double seconds) {
  const int64_t step = report.iteration;
  const auto both = [&](const std::string& name, double value) {
    events_->add_scalar(name, value, step);
    events_->add_scalar(name + " vs samples", value, report.consumed_samples);
  };
  if (options_.log_throughput_to_tensorboard) write_throughput(report);
  for (const auto& [name, value] : report.memory) events_->add_scalar("memory/" + name, value, step);
  if (options_.log_runtime_to_tensorboard) write_runtime(report);
  both("learning-rate", report.lr);
  if (report.decoupled_lr) events_->add_scalar("decoupled-learning-rate", *report.decoupled_lr, step);
  if (report.skipped_samples > 0)
    events_->add_scalar("skipped-train-samples", static_cast<double>(report.skipped_samples), step);
  events_->add_scalar("weight-decay", report.weight_decay, step);
  both("batch-size", static_cast<double>(report.global_batch_size));
  for (const auto& [name, loss] : report.losses) both(name, loss);
  if (options_.log_loss_scale) both("loss-scale", report.loss_scale);
  if (options_.log_world_size_to_tensorboard) both("world-size", options_.world_size);
  both("grad-norm", report.grad_norm);
  if (report.num_zeros) both("num-zeros", static_cast<double>(*report.num_zeros));
  if (report.params_norm) both("params-norm", *report.params_norm);
  events_->add_scalar("iteration-time", seconds, step);
  for (const auto& [name, spent] : report.timers) events_->add_scalar(name + "-time", spent, step);
}

void TrainingLog::write_throughput(const IterationReport& report) {
  // Of full windows only, as upstream: the first iterations are slower than others.
  if (std::ssize(window_) < options_.throughput_window_size || window_.size() < 2) return;
  const double seconds = std::chrono::duration<double>(window_.back().end - window_.front().end).count();
  if (seconds <= 0) return;
  const auto add = [&](const std::string& what, double amount) {
    events_->add_scalar("throughput/" + what, amount / seconds, report.iteration);
    events_->add_scalar("throughput/device/" + what, amount / seconds / options_.world_size, report.iteration);
  };
  const auto samples = static_cast<double>(window_.back().consumed_samples - window_.front().consumed_samples);
  add("batches_per_sec", static_cast<double>(window_.size() - 1));
  add("samples_per_sec", samples);
  add("tokens_per_sec", samples * static_cast<double>(options_.tokens_per_sample));
  events_->add_scalar("throughput/micro_batch_size", static_cast<double>(options_.micro_batch_size),
                      report.iteration);
  events_->add_scalar("throughput/global_batch_size", static_cast<double>(report.global_batch_size),
                      report.iteration);
}

void TrainingLog::write_runtime(const IterationReport& report) {
  const double spent = std::chrono::duration<double>(Clock::now() - begin_).count() / runtime_seconds_;
  // What came before this job took time that nobody has measured: only its own iterations count.
  const auto done = static_cast<double>(job_iterations_);
  const auto left = static_cast<double>(options_.train_iterations - report.iteration);
  const auto add = [&](const char* name, double value) { events_->add_scalar(name, value, report.iteration); };
  add("time/remaining_estimate", spent / done * left);
  add("time/tokens", static_cast<double>(report.consumed_samples * options_.tokens_per_sample));
  add("time/samples", static_cast<double>(report.consumed_samples));
  add("time/batches", static_cast<double>(report.iteration));
  add("time/total", spent);
}

void TrainingLog::evaluated(const std::string& what, int64_t iteration,
                            const std::map<std::string, double>& losses) {
  std::string line = fmt::format(" {} loss at iteration {} |", what, iteration);
  for (const auto& [name, loss] : losses) {
    const double perplexity = std::exp(std::min(20.0, loss));
    line += fmt::format(" {0} value: {1:.6E} | {0} PPL: {2:.6E} |", name, loss, perplexity);
    if (!events_) continue;
    events_->add_scalar(fmt::format("{} {}", name, what), loss, iteration);
    events_->add_scalar(fmt::format("{} {} ppl", name, what), perplexity, iteration);
  }
  say(line);
}

void TrainingLog::pause() { pause_begin_ = Clock::now(); }

void TrainingLog::resume() {
  const Clock::duration spent = Clock::now() - pause_begin_;
  line_begin_ += spent;
  iteration_begin_ += spent;
  for (Passed& passed : window_) passed.end += spent;
}

void TrainingLog::say(const std::string& line) {
  if (options_.print) options_.print(line);
}

void TrainingLog::flush() {
  if (events_) events_->flush();
}

}  // namespace viaduct::training
