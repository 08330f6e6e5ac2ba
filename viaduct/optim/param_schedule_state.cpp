// What a checkpoint keeps of a schedule.
#include <initializer_list>

#include "viaduct/core/error.h"
#include "viaduct/optim/param_schedule.h"

namespace viaduct::optim {

using config::Number;
using formats::PickleValue;

namespace {

PickleValue pickled(const Number& number) {
  if (number.is_integer()) return PickleValue(number.integer());
  return PickleValue(static_cast<double>(number));
}

// Values of a checkpoint against those of the configuration.
class Comparison {
 public:
  Comparison(const PickleValue& state, std::string_view origin, const ParamScheduleOptions& options)
      : state_(state),
        origin_(origin),
        keep_(options.override_opt_param_scheduler),
        must_agree_(!options.use_checkpoint_opt_param_scheduler) {
    VIADUCT_USER_CHECK(state.is_dict(), "{}: opt_param_scheduler is {}, not a dict", origin,
                       to_string(state.kind()));
  }

  // The value of the first of these keys that is there.
  const PickleValue& stored(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const PickleValue* found = state_.find(key)) return *found;
    throw UserError(
        fmt::format("{}: opt_param_scheduler has no '{}': the checkpoint's training state is incomplete; "
                    "load its weights alone (checkpoint.finetune=true)",
                    origin_, *(keys.end() - 1)));
  }

  // `own` as it is from now on. The last key is the one that is written today.
  void settle(double& own, std::initializer_list<std::string_view> keys) const {
    choose(own, number(keys), keys, own);
  }
  void settle(int64_t& own, std::initializer_list<std::string_view> keys) const {
    choose(own, integer(keys), keys, own);
  }
  void settle(Number& own, std::initializer_list<std::string_view> keys) const {
    const PickleValue& value = stored(keys);
    const Number found = value.kind() == PickleValue::Kind::kInt ? Number(value.as_int()) : Number(number(keys));
    choose(own, found, keys, static_cast<double>(own));
  }
  template <class Style>
  void settle(Style& own, std::string_view key, std::initializer_list<std::string_view> keys,
              Style (*parse)(std::string_view)) const {
    const PickleValue& value = stored(keys);
    VIADUCT_USER_CHECK(value.kind() == PickleValue::Kind::kString, "{}: opt_param_scheduler.{} is {}, not a text",
                       origin_, key, value.to_text());
    choose(own, parse(value.as_string()), keys, to_string(own));
  }

  int64_t integer(std::initializer_list<std::string_view> keys) const {
    const PickleValue& value = stored(keys);
    VIADUCT_USER_CHECK(value.kind() == PickleValue::Kind::kInt,
                       "{}: opt_param_scheduler.{} is {}, not a whole number", origin_, *(keys.end() - 1),
                       value.to_text());
    return value.as_int();
  }

 private:
  double number(std::initializer_list<std::string_view> keys) const {
    const PickleValue& value = stored(keys);
    VIADUCT_USER_CHECK(value.kind() == PickleValue::Kind::kInt || value.kind() == PickleValue::Kind::kFloat,
                       "{}: opt_param_scheduler.{} is {}, not a number", origin_, *(keys.end() - 1),
                       value.to_text());
    return value.as_double();
  }

  template <class T, class Shown>
  void choose(T& own, const T& found, std::initializer_list<std::string_view> keys, const Shown& shown) const {
    if (keep_) return;
    VIADUCT_USER_CHECK(!must_agree_ || own == found,
                       "{}: opt_param_scheduler.{} is {}, this run's is {}. Set "
                       "scheduler.use_checkpoint_opt_param_scheduler=true to go on with the checkpoint's, or "
                       "scheduler.override_opt_param_scheduler=true to go on with this run's",
                       origin_, *(keys.end() - 1), stored(keys).to_text(), shown);
    own = found;
  }

  const PickleValue& state_;
  std::string_view origin_;
  bool keep_;
  bool must_agree_;
};

}  // namespace

PickleValue ParamSchedule::state() const {
  const ParamScheduleOptions& o = options_;
  return PickleValue::dict({{"max_lr", o.max_lr},
                            {"lr_warmup_steps", pickled(o.lr_warmup_steps)},
                            {"num_steps", num_steps_},
                            {"lr_decay_style", std::string(to_string(o.lr_decay_style))},
                            {"lr_decay_steps", o.lr_decay_steps},
                            {"min_lr", o.min_lr},
                            {"start_wd", o.start_wd},
                            {"end_wd", o.end_wd},
                            {"wd_incr_style", std::string(to_string(o.wd_incr_style))},
                            {"wd_incr_steps", o.wd_incr_steps}});
}

void ParamSchedule::load(const PickleValue& state, std::string_view origin) {
  ParamScheduleOptions o = options_;
  const Comparison with(state, origin, o);
  with.settle(o.max_lr, {"start_lr", "max_lr"});
  with.settle(o.min_lr, {"min_lr"});
  with.settle(o.lr_warmup_steps, {"warmup_iter", "warmup_steps", "lr_warmup_steps"});
  with.settle(o.lr_decay_steps, {"end_iter", "decay_steps", "lr_decay_steps"});
  with.settle(o.lr_decay_style, "lr_decay_style", {"decay_style", "lr_decay_style"}, parse_lr_decay_style);
  const int64_t num_steps = with.integer({"num_iters", "num_steps"});
  if (state.find("start_wd")) {
    with.settle(o.start_wd, {"start_wd"});
    with.settle(o.end_wd, {"end_wd"});
    with.settle(o.wd_incr_steps, {"wd_incr_steps"});
    with.settle(o.wd_incr_style, "wd_incr_style", {"wd_incr_style"}, parse_wd_incr_style);
  }
  *this = ParamSchedule(o);  // checks what the checkpoint and the configuration make together
  num_steps_ = num_steps;
}

}  // namespace viaduct::optim
