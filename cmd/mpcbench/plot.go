package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Colours that are distinguishable with any kind of colour vision (Okabe and Ito, 2008).
var (
	blue   = color.RGBA{R: 0, G: 114, B: 178, A: 255}
	green  = color.RGBA{R: 0, G: 158, B: 115, A: 255}
	orange = color.RGBA{R: 213, G: 94, B: 0, A: 255}
)

// curve is one line of a plot.
type curve struct {
	name  string
	color color.Color
	of    func(*Level) float64
}

// plot draws throughput and latency against the number of callers into a PNG file. There must be at least one level.
func (r *Report) plot(path string) (err error) {
	throughput, err := r.panel("Provisions a minute",
		curve{"provisions a minute", blue, func(l *Level) float64 { return l.PerMinute }})
	if err != nil {
		return err
	}
	latency, err := r.panel("Latency, seconds",
		curve{"p50", green, func(l *Level) float64 { return l.Latency.Median }},
		curve{"p99", orange, func(l *Level) float64 { return l.Latency.P99 }})
	if err != nil {
		return err
	}
	img := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(10*vg.Inch, 4*vg.Inch), vgimg.UseDPI(120))}
	tiles := draw.Tiles{
		Rows: 1, Cols: 2, PadX: vg.Points(24),
		PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(16),
	}
	canvases := plot.Align([][]*plot.Plot{{throughput, latency}}, tiles, draw.New(img))
	throughput.Draw(canvases[0][0])
	latency.Draw(canvases[0][1])
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = img.WriteTo(f)
	return err
}

// panel draws curves over the number of callers, on a logarithmic axis.
func (r *Report) panel(title string, curves ...curve) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = fmt.Sprintf("callers at once (%s, %d cores)", r.Curves, r.Machine.Cores)
	p.Y.Min = 0
	p.Y.Tick.Marker = plot.TickerFunc(plainTicks)
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	var ticks plot.ConstantTicks
	for _, l := range r.Levels {
		ticks = append(ticks, plot.Tick{Value: math.Log2(float64(l.Callers)), Label: fmt.Sprint(l.Callers)})
	}
	p.X.Tick.Marker = ticks
	top := 0.0
	for _, c := range curves {
		var points plotter.XYs
		for _, l := range r.Levels {
			points = append(points, plotter.XY{X: math.Log2(float64(l.Callers)), Y: c.of(l)})
			top = max(top, c.of(l))
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", c.name, err)
		}
		line.Color, line.Width = c.color, vg.Points(2)
		dots.Color, dots.Shape, dots.Radius = c.color, draw.CircleGlyph{}, vg.Points(3)
		p.Add(line, dots)
		if len(curves) > 1 {
			p.Legend.Add(c.name, line, dots)
		}
	}
	p.Y.Max = top * 1.15 // space for the legend
	return p, nil
}

// plainTicks labels the usual ticks with as many digits as they need.
func plainTicks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if !ticks[i].IsMinor() {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'g', 4, 64)
		}
	}
	return ticks
}
