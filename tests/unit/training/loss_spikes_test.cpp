#include "viaduct/training/loss_spikes.h"

#include <gtest/gtest.h>

#include <limits>

namespace viaduct::training {
namespace {

TEST(LossSpikes, LaterLossesAreMeasuredByTheFirstHundred) {
  LossSpikes spikes(10);
  EXPECT_FALSE(spikes.is_spike(2.0));
  EXPECT_FALSE(spikes.is_spike(500.0)) << "nothing to compare with yet";
  LossSpikes measured(10);
  for (int i = 0; i < 99; ++i) EXPECT_FALSE(measured.is_spike(i % 2 ? 2.0 : -3.0));
  EXPECT_FALSE(measured.is_spike(std::numeric_limits<double>::quiet_NaN())) << "counts neither way";
  EXPECT_FALSE(measured.is_spike(1.0)) << "the hundredth";
  EXPECT_EQ(measured.largest(), 3.0);
  EXPECT_FALSE(measured.is_spike(29.9));
  EXPECT_TRUE(measured.is_spike(30.0));
  EXPECT_TRUE(measured.is_spike(-31.0));
  EXPECT_FALSE(measured.is_spike(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(measured.largest(), 3.0) << "what comes later changes no measure";
}

}  // namespace
}  // namespace viaduct::training
